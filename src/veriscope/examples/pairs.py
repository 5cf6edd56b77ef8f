"""Interchange pairs: each row beside another that differs in one variable and agrees in what else matters.

The pairing of interchange interventions (Causal Abstractions of Neural Networks, Geiger 2021), with the isolation half
of RAVEL (Evaluating Interpretability Methods on Disentangling Language Model Representations, Huang 2024): a partner
that agrees in the variable must change nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from veriscope.errors import BadRows, NoPairs, UnknownColumn, UserError
from veriscope.examples.load import as_factor
from veriscope.examples.pools import pool_of
from veriscope.examples.sample import Sample, content_id, text_cluster


@overload
def pairs(
    rows: Sample, *, vary: str, hold: Sequence[str] = ..., seed: int, isolate: bool = ..., dev_share: float = ...
) -> Sample: ...


@overload
def pairs(
    rows: Sequence[Mapping[str, Any]],
    *,
    vary: str,
    hold: Sequence[str] = ...,
    seed: int,
    isolate: bool = ...,
    text: str = ...,
    answer: str = ...,
    cluster: str = ...,
    dev_share: float = ...,
) -> list[dict[str, Any]]: ...


def pairs(
    rows: Any,
    *,
    vary: str,
    hold: Sequence[str] = (),
    seed: int,
    isolate: bool = False,
    text: str = "text",
    answer: str = "answer",
    cluster: str = "cluster",
    dev_share: float = 0.5,
) -> Any:
    """Give each row a partner drawn at random, seeded, whatever the order of the rows.

    A partner comes from the same pool, and the pair keeps the cluster of its base row, so that the content of one pool
    never enters another. (Merging the clusters of both rows instead would soon leave one cluster.) The pool follows
    from the cluster and `dev_share`: load the pairs with the same `dev_share`. Put a column that will mark the shift
    pool into `hold`. A row without a partner is left out, with a warning that counts them.

    Args:
        rows: A sample, or dicts with the columns `text`, `answer` and, optionally, `cluster`.
        vary: Column (or factor) of the variable: the partner has another value.
        hold: Columns in which the partner agrees. They must name all else that the answer depends on: the expected
            answer is the partner's own. A warning says so where rows that agree in all of them have several answers.
        isolate: Also give each row a partner that agrees in `vary` and differs elsewhere (in `hold` where one can be
            found, else in its text alone). Setting the variable from it must leave the row's own answer.

    Returns:
        For a sample a sample, else dicts, with `source` (the partner's text), `expected` (the answer predicted once
        the variable is set from it) and the factor `pair`: "interchange" or "isolation". Load dicts with
        `examples(rows, answer="answer", cluster="cluster", source_text="source", expected="expected")`.

    Raises:
        NoPairs: No row has a partner.
        UnknownColumn, BadRows, UserError: A column is missing everywhere, in some rows, or would be overwritten.
    """
    if vary in hold:
        raise UserError(f"'{vary}' is both varied and held. Leave it out of hold.")
    if isinstance(rows, Sample):
        items = _from_sample(rows, vary, hold)
    else:
        items = _from_rows(rows, vary, hold, text, answer, cluster, dev_share)
    plan = _plan(items, seed, isolate)
    if not plan:
        raise NoPairs(vary, hold, len(items))
    _warn(items, len({base for base, _, kind in plan if kind == "interchange"}), vary, hold)
    if isinstance(rows, Sample):
        return _paired_sample(rows, items, plan)
    return [
        {cluster: items[base].cluster, **rows[base], "source": items[other].text, "pair": kind}
        | {"expected": items[other if kind == "interchange" else base].answer}
        for base, other, kind in plan
    ]


@dataclass(frozen=True)
class _Item:
    """What pairing needs to know of a row."""

    key: str  # hash of its content: what the draw depends on, so that the order of the rows does not matter
    pool: str
    cluster: str
    text: str
    answer: str
    vary: str
    hold: tuple[str, ...]


def _from_sample(sample: Sample, vary: str, hold: Sequence[str]) -> list[_Item]:
    answers, values, held = sample.answers, sample.factor(vary), [sample.factor(column) for column in hold]
    return [
        _Item(e.id, sample.pool, e.cluster, e.text, answers[i], values[i], tuple(column[i] for column in held))
        for i, e in enumerate(sample.examples)
    ]


def _from_rows(
    rows: Sequence[Mapping[str, Any]],
    vary: str,
    hold: Sequence[str],
    text: str,
    answer: str,
    cluster: str,
    dev_share: float,
) -> list[_Item]:
    known = list(dict.fromkeys(key for row in rows for key in row))
    for taken in ("source", "expected", "pair"):
        if taken in known:
            raise UserError(f"The rows already have a column '{taken}', which pairs writes. Rename it first.")
    needed = (text, answer, vary, *hold, *([cluster] if cluster in known else []))
    for wanted in needed:
        if wanted not in known:
            raise UnknownColumn(wanted, "the given list", known)
    gaps = [(i, f"no '{c}'") for i, row in enumerate(rows, start=1) for c in needed if not as_factor(row.get(c), c)]
    if gaps:
        raise BadRows("the given list", gaps, unit="row")
    items = []
    for row in rows:
        group = as_factor(row[cluster], cluster) if cluster in row else text_cluster(row[text])
        held = tuple(as_factor(row[column], column) for column in hold)
        key = hashlib.sha256(json.dumps(dict(row), sort_keys=True, default=str).encode()).hexdigest()
        said = row[answer] if isinstance(row[answer], str) else as_factor(row[answer], answer)
        items.append(_Item(key, pool_of(group, dev_share), group, row[text], said, as_factor(row[vary], vary), held))
    return items


def _plan(items: Sequence[_Item], seed: int, isolate: bool) -> list[tuple[int, int, str]]:
    """(base, partner, kind) for every base that has one, by index."""
    other_value = _Draw(items, group=lambda i: (i.pool, i.hold), differ=lambda i: i.vary)
    elsewhere = _Draw(items, group=lambda i: (i.pool, i.vary), differ=lambda i: i.hold)
    other_text = _Draw(items, group=lambda i: (i.pool, i.vary), differ=lambda i: i.text)
    plan = []
    for base in range(len(items)):
        partner = other_value.partner(base, f"{seed}|interchange")
        if partner is not None:
            plan.append((base, partner, "interchange"))
        if isolate and partner is not None:
            unchanged = elsewhere.partner(base, f"{seed}|isolation")
            unchanged = other_text.partner(base, f"{seed}|isolation") if unchanged is None else unchanged
            if unchanged is not None:
                plan.append((base, unchanged, "isolation"))
    return plan


class _Draw:
    """Draws a partner from the same group with another value of `differ`, in about constant time.

    Each group is sorted by that value, so the rows that agree in it form one run, which the draw steps over.
    """

    def __init__(self, items: Sequence[_Item], group: Callable[[_Item], Any], differ: Callable[[_Item], Any]) -> None:
        self._items, self._group, self._differ = items, group, differ
        self._members: dict[Any, list[int]] = {}
        for index in sorted(range(len(items)), key=lambda k: (differ(items[k]), items[k].key)):
            self._members.setdefault(group(items[index]), []).append(index)
        self._values = {key: [differ(items[k]) for k in members] for key, members in self._members.items()}

    def partner(self, base: int, seed: str) -> int | None:
        item = self._items[base]
        members, values = self._members[self._group(item)], self._values[self._group(item)]
        low, high = bisect_left(values, self._differ(item)), bisect_right(values, self._differ(item))
        n = len(members) - (high - low)
        start = int(hashlib.sha256(f"{seed}|{item.key}".encode()).hexdigest()[:15], 16)
        for step in range(n):
            at = (start + step) % n
            found = members[at if at < low else at + high - low]
            if self._items[found].text != item.text:  # a run patched with itself says nothing
                return found
        return None


def _warn(items: Sequence[_Item], n_paired: int, vary: str, hold: Sequence[str]) -> None:
    if n_paired < len(items):
        warnings.warn(f"{len(items) - n_paired} of {len(items)} rows have no partner and were left out", stacklevel=3)
    answers: dict[Any, set[str]] = {}
    for item in items:
        answers.setdefault((item.vary, item.hold), set()).add(item.answer)
    several = sum(len(found) > 1 for found in answers.values())
    if several:
        columns = ", ".join((vary, *hold))
        warnings.warn(
            f"rows that agree in {columns} have several answers in {several} of {len(answers)} cases, so a partner's "
            "answer need not be what the variable predicts: name in hold all that the answer depends on",
            stacklevel=3,
        )


def _paired_sample(sample: Sample, items: Sequence[_Item], plan: Sequence[tuple[int, int, str]]) -> Sample:
    found = []
    for base, other, kind in plan:
        example = sample.examples[base]
        pair = replace(
            example,
            source=items[other].text,
            expected=items[other if kind == "interchange" else base].answer,
            factors={**example.factors, "pair": kind},
        )
        found.append(replace(pair, id=content_id(pair)))
    return replace(sample, examples=tuple(found))
