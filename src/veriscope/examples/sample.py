"""One example, and a sample of them that one may look at."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from veriscope.errors import MissingField, UnknownColumn


@dataclass(frozen=True)
class Example:
    """One input with what is known about it. `make_example` fills in `id` and `cluster`.

    Labels, clusters and factors are names: text in Unicode's NFC form, so that one name typed on two machines is one
    name. Texts and continuations stay as they were given, because a model sees the difference.
    """

    id: str  # 16 hex digits of the SHA-256 of the content
    text: str
    label: str | None = None  # value of the variable: "True", "kitchen"
    cluster: str = ""  # what splits and bootstraps keep together
    answer: str | None = None  # the continuation that the behaviour prefers
    foil: str | None = None  # the continuation it is compared with
    source: str | None = None  # text of the paired, counterfactual run
    expected: str | None = None  # the answer predicted when the variable is set from `source`
    factors: Mapping[str, str] = field(default_factory=dict, hash=False)  # further outside causes, by name


FIELDS = ("text", "label", "cluster", "answer", "foil", "source", "expected")


def make_example(text: str, *, label: str | None = None, cluster: str | None = None, **rest: Any) -> Example:
    """An example with its id worked out, its names normalised and, without a cluster, a cluster of its own text."""
    names = {"label": None if label is None else name(label), "cluster": name(cluster or text_cluster(text))}
    factors = {name(k): name(v) for k, v in rest.pop("factors", {}).items()}
    plain = Example(id="", text=text, factors=factors, **names, **rest)  # type: ignore[arg-type]
    return replace(plain, id=content_id(plain))


def name(text: str) -> str:
    """The one spelling of a name: Unicode NFC (a file name or label typed on a Mac may arrive decomposed)."""
    return unicodedata.normalize("NFC", text)


def text_cluster(text: str) -> str:
    """The cluster of a text that was given none: texts that differ only in case, spacing or NFC share it."""
    return hashlib.sha256(" ".join(name(text).casefold().split()).encode()).hexdigest()[:16]


def content_id(example: Example) -> str:
    """16 hex digits over everything the example says."""
    content = {f: getattr(example, f) for f in FIELDS} | {"factors": dict(example.factors)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Sample:
    """Examples that one may look at: what methods and trials take."""

    examples: tuple[Example, ...]
    name: str  # of the Examples they come from
    hash: str  # of the Examples they come from
    pool: str  # "dev", "gate" or "shift"
    variable: str = ""  # name of the label column

    @property
    def texts(self) -> list[str]:
        return [e.text for e in self.examples]

    @property
    def ids(self) -> list[str]:
        return [e.id for e in self.examples]

    @property
    def clusters(self) -> list[str]:
        return [e.cluster for e in self.examples]

    @property
    def labels(self) -> list[str]:
        """Raises MissingField if an example has none; so do the four properties below. Where in doubt ask `has`."""
        return self._filled("label", "label")

    @property
    def answers(self) -> list[str]:
        return self._filled("answer", "answer")

    @property
    def foils(self) -> list[str]:
        return self._filled("foil", "foil")

    @property
    def sources(self) -> list[str]:
        return self._filled("source", "source_text")

    @property
    def expected(self) -> list[str]:
        return self._filled("expected", "expected")

    @property
    def n_clusters(self) -> int:
        return len(set(self.clusters))

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the factors, in the order of their columns."""
        return tuple(dict.fromkeys(key for e in self.examples for key in e.factors))

    def has(self, field: str) -> bool:
        """Whether every example has this field ("label", "answer", "foil", "source", "expected") filled."""
        return len(self) > 0 and all(getattr(e, field) is not None for e in self.examples)

    def factor(self, wanted: str) -> list[str]:
        """Values of a factor; also of the label by its column's name, or of a field ("text", "answer", ...).

        Raises:
            UnknownColumn: No example has it.
            MissingField: It is a field that is not filled in every example.
        """
        wanted = name(wanted)
        if not self.examples:
            return []
        if any(wanted in e.factors for e in self.examples):
            return [e.factors.get(wanted, "") for e in self.examples]
        if wanted == self.variable and wanted:
            return self.labels
        if wanted in FIELDS:
            return self._filled(wanted, "source_text" if wanted == "source" else wanted)
        filled = [f for f in FIELDS if self.has(f)]
        raise UnknownColumn(wanted, f"Examples '{self.name}'", [*self.factor_names, *filled])

    def where(self, predicate: Callable[[Example], bool]) -> Sample:
        """The examples for which `predicate` holds, in the same order."""
        return replace(self, examples=tuple(e for e in self.examples if predicate(e)))

    def take(self, indices: Sequence[int]) -> Sample:
        """The examples at these places, in this order; a place may come twice."""
        return replace(self, examples=tuple(self.examples[int(i)] for i in indices))

    def relabel(self, labels: Sequence[str]) -> Sample:
        """The same examples with other labels (a control task, say). Ids stay: they name the content as loaded."""
        if len(labels) != len(self):
            raise ValueError(f"{len(labels)} labels for {len(self)} examples")
        return replace(
            self, examples=tuple(replace(e, label=str(z)) for e, z in zip(self.examples, labels, strict=True))
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def _filled(self, field: str, argument: str) -> list[str]:
        values = [getattr(e, field) for e in self.examples]
        if any(v is None for v in values):
            raise MissingField(field, self.name, argument)
        return values
