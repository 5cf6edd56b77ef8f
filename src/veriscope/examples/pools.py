"""Pools: which examples one may look at freely, and which are opened once for a card, with every look on record."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from veriscope.errors import OneClass, OneClassInPool, PoolTooSmall, UnseenClass, UserError
from veriscope.examples.sample import Example, Sample, name

POOLS = ("dev", "gate", "shift")


def place(cluster: str) -> float:
    """A number in [0, 1) that depends on the cluster's name alone, the same on every machine and in every data set."""
    text = "veriscope-split-1|" + name(cluster)
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16) / 16**15


def pool_of(cluster: str, dev_share: float = 0.5) -> str:
    """The pool of a cluster: adding or removing other rows never moves it."""
    return "dev" if place(cluster) < dev_share else "gate"


@runtime_checkable
class Record(Protocol):
    """What a pool needs of a ledger."""

    def append(self, kind: str, body: Mapping[str, Any]) -> Any: ...
    def rows(self, kind: str | None = None, **where: Any) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Pool:
    """A closed pool: until it is opened, only its size can be seen."""

    _sample: Sample = field(repr=False)
    name: str
    n: int
    n_clusters: int

    def open(self, *, by: str, ledger: Record) -> Sample:
        """Write the look down, then hand out the examples.

        Args:
            by: Hash of the card that the pool is opened for. The same card may open it again; that is the same look.
            ledger: Where the look is recorded. If that fails, nothing is handed out.

        Raises:
            UserError: `by` is empty: a pool is not opened for nothing.
        """
        if not by.strip():
            raise UserError(
                f"The {self.name} pool of '{self._sample.name}' is opened for a card. Write the claim down first and "
                "give its hash: pool.open(by=card.hash, ledger=ledger). To look freely, use the dev pool."
            )
        look = {"examples": self._sample.hash, "name": self._sample.name, "pool": self.name, "by": by, "n": self.n}
        again = bool(ledger.rows("look", examples=self._sample.hash, pool=self.name, by=by))
        ledger.append("look", look | {"again": again})
        return self._sample


@dataclass(frozen=True)
class Examples:
    """A data set with its pools: `dev` to look at freely, `gate` and `shift` closed."""

    name: str
    hash: str  # of all rows and their pools; the order of the rows does not matter
    variable: str  # name of the label column, "" without one
    dev: Sample
    gate: Pool
    shift: Pool | None
    warnings: tuple[str, ...] = ()  # what is odd but allowed: repeated rows, one text in two pools, ...

    @property
    def n(self) -> int:
        return len(self.dev) + self.gate.n + (self.shift.n if self.shift else 0)

    def describe(self) -> str:
        """Counts for a person. Of the closed pools only sizes; labels of dev alone."""
        pools = [("dev", len(self.dev), self.dev.n_clusters), ("gate", self.gate.n, self.gate.n_clusters)]
        if self.shift:
            pools.append(("shift", self.shift.n, self.shift.n_clusters))
        lines = [f"{self.name}: {self.n} examples ({self.hash[:16]})"]
        lines += [f"  {pool:<6}{n:>8} examples in {clusters} clusters" for pool, n, clusters in pools]
        if self.dev.has("label"):
            counts = Counter(self.dev.labels)
            balance = ", ".join(
                f"{label} {count} ({count / len(self.dev):.0%})" for label, count in counts.most_common()
            )
            lines.append(f"  {self.variable or 'label'} in dev: {balance}")
        return "\n".join(lines + [f"  note: {warning}" for warning in self.warnings])


def split(
    rows: Sequence[Example], shift_rows: Sequence[Example], *, dev_share: float, title: str, variable: str, source: str
) -> Examples:
    """Put every row in its pool and check that each pool can be used.

    Raises:
        PoolTooSmall: A pool has fewer than two clusters.
        OneClass, OneClassInPool, UnseenClass: The labels of a pool can't be learnt or can't be tested.
    """
    placed: dict[str, list[Example]] = {"dev": [], "gate": [], "shift": list(shift_rows)}
    for row in rows:
        placed[pool_of(row.cluster, dev_share)].append(row)
    total = len({r.cluster for r in (*rows, *shift_rows)})
    for pool in POOLS:
        n_clusters = len({r.cluster for r in placed[pool]})
        if n_clusters < 2 and (pool != "shift" or shift_rows):
            raise PoolTooSmall(pool, n_clusters, total, source)
    if variable:
        _check_labels(placed, variable, source)

    whole = dataset_hash(placed, variable, dev_share)
    samples = {pool: Sample(tuple(placed[pool]), title, whole, pool, variable) for pool in POOLS}
    gate, shift = (_closed(samples[pool]) for pool in ("gate", "shift"))
    warnings = tuple(text for check in _CHECKS for text in check(placed))
    return Examples(title, whole, variable, samples["dev"], gate, shift if shift_rows else None, warnings)


def dataset_hash(placed: Mapping[str, Sequence[Example]], variable: str, dev_share: float) -> str:
    """SHA-256 over the ids in each pool, sorted: shuffling a file does not make a new data set out of it."""
    content = {pool: sorted(e.id for e in rows) for pool, rows in placed.items()}
    text = json.dumps(
        [content, variable, repr(float(dev_share))], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _closed(sample: Sample) -> Pool:
    return Pool(sample, sample.pool, len(sample), sample.n_clusters)


def _check_labels(placed: Mapping[str, Sequence[Example]], variable: str, source: str) -> None:
    classes = {pool: {str(e.label) for e in rows} for pool, rows in placed.items()}
    everywhere = classes["dev"] | classes["gate"]
    if len(everywhere) == 1:
        raise OneClass(variable, sorted(everywhere), sum(len(placed[pool]) for pool in ("dev", "gate")))
    for pool in ("dev", "gate"):
        if len(classes[pool]) == 1:
            raise OneClassInPool(variable, pool, source)  # which class it is stays closed with the gate
    for pool in ("gate", "shift"):
        for unseen in sorted(classes[pool] - classes["dev"]):
            raise UnseenClass(unseen, variable, pool)


# Oddities that real data has: told, not refused.

Placed = Mapping[str, Sequence[Example]]


def _repeated_rows(placed: Placed) -> list[str]:
    counts = Counter(e.id for rows in placed.values() for e in rows)
    repeated = [n for n in counts.values() if n > 1]
    copies = sum(repeated) - len(repeated)
    return [f"rows that occur more than once: {len(repeated)}, with {copies} further copies"] if repeated else []


def _texts_in_two_pools(placed: Placed) -> list[str]:
    """The text of a paired run counts too: it is content that one pool would tell about another."""
    seen: dict[str, set[str]] = {}
    for pool, rows in placed.items():
        for text in (t for e in rows for t in (e.text, e.source) if t is not None):
            seen.setdefault(text, set()).add(pool)
    n = sum(len(pools) > 1 for pools in seen.values())
    return (
        [f"texts in more than one pool, under different clusters: {n} (a coarser cluster keeps them together)"]
        if n
        else []
    )


def _clusters_in_shift(placed: Placed) -> list[str]:
    n = len({e.cluster for e in placed["shift"]} & {e.cluster for pool in ("dev", "gate") for e in placed[pool]})
    return [f"clusters of the shift pool that are also in dev or gate: {n}"] if n else []


def _disagreeing_copies(placed: Placed) -> list[str]:
    """Label noise, counted in dev alone: the gate's labels stay closed."""
    notes = []
    for what in ("label", "answer"):
        values: dict[str, set[str]] = {}
        for e in placed["dev"]:
            if getattr(e, what) is not None:
                values.setdefault(e.text, set()).add(getattr(e, what))
        n = sum(len(v) > 1 for v in values.values())
        if n:
            notes.append(f"texts of dev with more than one {what}: {n}")
    return notes


def _labels_alike(placed: Placed) -> list[str]:
    groups: dict[str, set[str]] = {}
    for e in placed["dev"]:
        if e.label is not None:
            groups.setdefault(e.label.strip().casefold(), set()).add(e.label)
    alike = [sorted(group) for group in groups.values() if len(group) > 1]
    return [f"labels {' and '.join(repr(z) for z in group)} differ only in case or spaces" for group in alike]


_CHECKS: tuple[Callable[[Placed], list[str]], ...] = (
    _repeated_rows,
    _texts_in_two_pools,
    _clusters_in_shift,
    _disagreeing_copies,
    _labels_alike,
)
