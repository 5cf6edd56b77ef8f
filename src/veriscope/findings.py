"""The four forms of finding: Reading, Parts, Change and Prediction.

Whatever a method does, it hands back one of these four, and a trial knows only them. They are frozen, know where they
came from (`Origin`), and are kept as a folder of two files, `finding.json` and `tensors.safetensors`, which is loaded
without running any code and refused if anything in it is missing, unknown, misshapen or not a number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import BadFinding, FindingExists, PositionNeedsExamples, TwoClassesOnly, UnknownClass
from veriscope.subjects import Add, Edit, Erase

SCHEMA = 1
FIXED_POSITIONS = ("all", "last", "first")  # any other word names a column, whose place differs between examples


@dataclass(frozen=True)
class Origin:
    """Where a finding came from: enough to make it again and to know how hard it was searched for.

    `method(origin.method, **origin.settings)` rebuilds the method. `tried` counts the combinations of site, position,
    seed and settings that were looked at before this one was chosen. `fitted_on` counts the examples it learnt from and
    `seen` is a sketch of their texts (`examples.seen`): 0 and "" where that is not known or nothing was learnt.
    """

    method: str
    settings: dict[str, Any]
    subject: str
    examples: str
    variable: str
    site: str
    position: str | int
    seed: int
    tried: int
    fitted_on: int = 0
    seen: str = field(default="", repr=False)


@dataclass(frozen=True)
class Reading:
    """A number read off a run by a linear map at one site and position.

    For two classes there is one column and a score above 0 speaks for `classes[1]`; for more there is a column for each
    class and the largest speaks. `centre` is the mean activation and `gaps` holds, for each column, how far the class
    lies from the other class or classes along that column (activation units): the natural dose of one.
    """

    site: str
    position: str | int
    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, "k"]
    classes: tuple[str, ...]
    centre: Float[Tensor, "d"]
    origin: Origin
    gaps: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = 1 if len(self.classes) == 2 else len(self.classes)
        if len(self.classes) < 2 or self.weight.shape[1] != columns or len(self.gaps) != columns:
            raise ValueError(
                f"{len(self.classes)} classes need {columns} columns, not {self.weight.shape[1]} of weight and "
                f"{len(self.gaps)} of gaps"
            )

    def score(self, acts: Float[Tensor, "example d"]) -> Float[Tensor, "example k"]:
        """Scores of raw activations at the reading's site and position."""
        weight, bias = self.weight.to(acts), self.bias.to(acts)
        return acts @ weight + bias

    @property
    def direction(self) -> Float[Tensor, "d"]:
        """Unit vector towards `classes[1]`; raises TwoClassesOnly for more than two classes."""
        if len(self.classes) != 2:
            raise TwoClassesOnly("The direction", self.classes)
        return _unit(self.weight[:, 0])

    @property
    def gap(self) -> float:
        """Distance between the two class means along `direction`, in activation units."""
        if len(self.classes) != 2:
            raise TwoClassesOnly("The gap", self.classes)
        return self.gaps[0]

    @property
    def basis(self) -> Float[Tensor, "d r"]:
        """Orthonormal columns that span the reading's weights (rank 1 for two classes, at most k-1 or k for more)."""
        left, sizes, _ = torch.linalg.svd(_centred(self.weight).double(), full_matrices=False)
        rank = int((sizes > sizes[0] * 1e-6).sum()) if sizes.numel() and sizes[0] > 0 else 0
        return left[:, :rank].to(self.weight.dtype).contiguous()

    def as_change(self, kind: Literal["add", "erase"], toward: str | None = None) -> Change:
        """Turn the reading into something done to the subject.

        "add" moves activations towards `toward` (default `classes[1]`) by one gap between the classes a unit of dose;
        "erase" projects the reading's basis out around `centre`.
        """
        if kind == "erase":
            basis = self.basis
            return Change("erase", self.site, self.position, self.origin, left=basis, right=basis.T, centre=self.centre)
        vector, toward = self._toward(toward)
        return Change("add", self.site, self.position, self.origin, vector=vector, toward=toward)

    def _toward(self, toward: str | None) -> tuple[Float[Tensor, "d"], str]:
        if toward is None:
            if len(self.classes) != 2:
                raise TwoClassesOnly("A default class to move towards", self.classes)
            toward = self.classes[1]
        if toward not in self.classes:
            raise UnknownClass(toward, self.classes)
        which = self.classes.index(toward)
        if len(self.classes) == 2:
            return self.direction * self.gap * (1.0 if which == 1 else -1.0), toward
        return _unit(_centred(self.weight)[:, which]) * self.gaps[which], toward


@dataclass(frozen=True)
class Change:
    """Something done to the activations at one site: a vector added with a dose, or a low-rank part erased.

    "add" needs `vector` (a dose of 1 adds it once); "erase" needs `left`, `right` and `centre` and replaces h by
    h - left @ (right @ (h - centre)). `toward` names the class or behaviour that a positive dose is for.
    """

    kind: Literal["add", "erase"]
    site: str
    position: str | int
    origin: Origin
    vector: Float[Tensor, "d"] | None = None
    left: Float[Tensor, "d r"] | None = None
    right: Float[Tensor, "r d"] | None = None
    centre: Float[Tensor, "d"] | None = None
    toward: str | None = None

    def __post_init__(self) -> None:
        erasing = (self.left, self.right, self.centre)
        if self.kind == "add" and (self.vector is None or any(t is not None for t in erasing)):
            raise ValueError("a change of kind 'add' has a vector and nothing else")
        if self.kind == "erase" and (self.vector is not None or any(t is None for t in erasing)):
            raise ValueError("a change of kind 'erase' has left, right and centre and no vector")

    def edits(self, dose: float = 1.0, at: Any = None) -> tuple[Edit, ...]:
        """The edits that do it.

        Args:
            dose: Multiple of `vector` to add; an erasure has no dose and ignores it.
            at: Where, if not at `position`. Required (`subject.where(position, sample)`) where `position` names a
                column of the examples; raises PositionNeedsExamples without it.
        """

        if at is None:
            if isinstance(self.position, str) and self.position not in FIXED_POSITIONS:
                raise PositionNeedsExamples(self.position)
            at = self.position
        if self.vector is not None:
            return (Edit(self.site, Add(self.vector * dose), at=at),)
        assert self.left is not None and self.right is not None and self.centre is not None
        return (Edit(self.site, Erase(self.left, self.right, self.centre), at=at),)


@dataclass(frozen=True, order=True)
class Part:
    """One piece of something divided up: a whole site, or one unit (head, neuron, latent) of it."""

    site: str
    unit: int | None = None


@dataclass(frozen=True)
class Parts:
    """A weighted subset of a declared universe of parts."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    universe: tuple[Part, ...]
    origin: Origin

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.weights):
            raise ValueError(f"{len(self.parts)} parts have {len(self.weights)} weights")
        for name, group in (("parts", self.parts), ("universe", self.universe)):
            if len(set(group)) != len(group):
                raise ValueError(f"{name} names a part twice")
        if outside := set(self.parts) - set(self.universe):
            raise ValueError(f"not in the universe: {sorted(outside, key=str)[0]}")

    @property
    def mask(self) -> tuple[bool, ...]:
        """For each part of the universe, in its order: is it among the parts?"""
        inside = set(self.parts)
        return tuple(part in inside for part in self.universe)

    def complement(self) -> Parts:
        """Everything else in the universe, each with weight 1."""
        rest = tuple(part for part, inside in zip(self.universe, self.mask, strict=True) if not inside)
        return dataclasses.replace(self, parts=rest, weights=(1.0,) * len(rest))

    def edits(self, how: Any, at: Any = "all") -> tuple[Edit, ...]:
        """The same thing done to every part: one edit for each site, with its units together.

        Args:
            how: What to do (`Zero()`, `Mean(...)`, ...), or a mapping from site to what to do there.
            at: Positions.
        """

        units: dict[str, list[int] | None] = {}
        for part in self.parts:
            already = units.setdefault(part.site, [])
            if part.unit is None or already is None:
                units[part.site] = None  # the whole site swallows its units
            else:
                already.append(part.unit)
        there = how if isinstance(how, Mapping) else dict.fromkeys(units, how)
        return tuple(
            Edit(site, there[site], at=at, units=None if which is None else tuple(sorted(which)))
            for site, which in units.items()
        )


@dataclass(frozen=True)
class Prediction:
    """Something executable that says what will happen: an answer for each value of a named outside cause."""

    question: str
    table: tuple[tuple[str, str], ...]
    default: str
    origin: Origin

    def predict(self, value: str) -> str:
        """The answer for one value of the factor `question`, or the default for a value not in the table."""
        return dict(self.table).get(value, self.default)


Finding = Reading | Parts | Change | Prediction
_FORMS: dict[str, type] = {form.__name__: form for form in (Reading, Parts, Change, Prediction)}


# ---- kept on disk -----------------------------------------------------------------------------------------------


def finding_hash(finding: Finding) -> str:
    """sha256 of everything in the finding: the name it has on a card."""
    plain, tensors = _take_apart(finding)
    return _hash(plain, tensors)


def save(finding: Finding, folder: str | Path) -> Path:
    """Write a finding to a folder of its own, whole or not at all.

    Raises:
        FindingExists: The folder holds a different finding. Saving the same one twice changes nothing.
    """
    folder = Path(folder)
    plain, tensors = _take_apart(finding)
    if bad := [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]:
        raise BadFinding(folder, f"its tensor '{bad[0]}' has values that are not finite numbers")
    record = {
        "schema": SCHEMA,
        "form": type(finding).__name__,
        "finding": plain,
        "tensors": {name: list(t.shape) for name, t in tensors.items()},
        "hash": _hash(plain, tensors),
    }
    if (folder / "finding.json").exists():
        if finding_hash(load_finding(folder)) != record["hash"]:
            raise FindingExists(folder)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # the json goes last: a folder without it is not a finding, so a kill in between leaves nothing half-written
    _write(folder / "tensors.safetensors", safetensors.torch.save(tensors))
    _write(folder / "finding.json", (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
    return folder


def load_finding(folder: str | Path) -> Finding:
    """Read a finding back without running code.

    Raises:
        BadFinding: Anything is missing, unknown, misshapen, not finite, or not what was saved.
    """
    folder = Path(folder)
    record = _read_record(folder)
    tensors = _read_tensors(folder, record["tensors"])
    if _hash(record["finding"], tensors) != record["hash"]:
        raise BadFinding(folder, "its content does not match its hash, so it was changed after it was saved")
    form = _FORMS[record["form"]]
    try:
        return _put_together(form, record["finding"], tensors)
    except (TypeError, ValueError, KeyError) as broken:
        raise BadFinding(folder, f"its fields do not make a {form.__name__} ({broken})") from broken


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "finding.json").read_text("utf-8"))
    except OSError as missing:
        raise BadFinding(folder, f"finding.json cannot be read ({missing.strerror})") from missing
    except ValueError as broken:
        raise BadFinding(folder, f"finding.json is not JSON ({broken})") from broken
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise BadFinding(folder, f"finding.json has schema {found!r} and this version reads {SCHEMA}")
    expected = {"schema", "form", "finding", "tensors", "hash"}
    if odd := set(record) ^ expected:
        raise BadFinding(folder, f"finding.json has missing or unknown entries: {', '.join(sorted(odd))}")
    if record["form"] not in _FORMS:
        raise BadFinding(folder, f"its form {record['form']!r} is none of {', '.join(_FORMS)}")
    return record


def _read_tensors(folder: Path, shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load((folder / "tensors.safetensors").read_bytes())
    except OSError as missing:
        raise BadFinding(folder, f"tensors.safetensors cannot be read ({missing.strerror})") from missing
    except safetensors.SafetensorError as broken:
        raise BadFinding(folder, f"tensors.safetensors is damaged ({broken})") from broken
    if odd := set(tensors) ^ set(shapes):
        raise BadFinding(folder, f"tensors.safetensors has missing or unknown tensors: {', '.join(sorted(odd))}")
    for name, tensor in tensors.items():
        if list(tensor.shape) != shapes[name]:
            raise BadFinding(folder, f"the tensor '{name}' has shape {list(tensor.shape)}, not {shapes[name]}")
        if not bool(torch.isfinite(tensor).all()):
            raise BadFinding(folder, f"the tensor '{name}' has values that are not finite numbers")
    return tensors


def _take_apart(finding: Finding) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split into JSON-ready fields and tensors; a field that holds a tensor is absent from the first."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for f in dataclasses.fields(finding):
        value = getattr(finding, f.name)
        if isinstance(value, Tensor):
            tensors[f.name] = value.detach().cpu().contiguous().clone()  # safetensors takes no shared memory
        elif f.name == "origin":
            plain[f.name] = dataclasses.asdict(value)
        else:
            plain[f.name] = [[p.site, p.unit] for p in value] if f.name in ("parts", "universe") else value
    return json.loads(json.dumps(plain, allow_nan=False)), tensors


def _put_together(form: type, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Finding:
    known = {f.name for f in dataclasses.fields(form)}
    if odd := known ^ (set(plain) | set(tensors)):
        raise ValueError(f"missing or unknown fields: {', '.join(sorted(odd))}")
    values: dict[str, Any] = dict(plain) | dict(tensors)
    values["origin"] = Origin(**values["origin"])
    for name in ("classes", "gaps", "weights"):
        if name in values:
            values[name] = tuple(values[name])
    if form is Parts:
        for name in ("parts", "universe"):
            values[name] = tuple(Part(site, unit) for site, unit in values[name])
    if form is Prediction:
        values["table"] = tuple((str(value), str(answer)) for value, answer in values["table"])
    _check_shapes(form, values)
    return form(**values)


def _check_shapes(form: type, values: Mapping[str, Any]) -> None:
    """All tensors of a finding must agree on the width of the site."""
    if form is Reading:
        d, k = values["weight"].shape
        wanted: dict[str, tuple[int, ...]] = {"bias": (k,), "centre": (d,)}
    elif form is Change and values["kind"] == "erase":
        d, r = values["left"].shape
        wanted = {"right": (r, d), "centre": (d,)}
    elif form is Change:
        if values["kind"] != "add":
            raise ValueError(f"a change is of kind 'add' or 'erase', not {values['kind']!r}")
        wanted = {"vector": (values["vector"].numel(),)}
    else:
        return
    for name, shape in wanted.items():
        if tuple(values[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(values[name].shape)}, not {shape}")


def _hash(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"|{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync, rename: a reader sees the old file, the new one, or none."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _unit(vector: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    size = vector.norm()
    return vector / size if size > 0 else vector


def _centred(weight: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Columns less their mean where there are several: only differences of scores speak."""
    return weight if weight.shape[1] == 1 else weight - weight.mean(1, keepdim=True)


__all__ = [
    "Change", "Finding", "Origin", "Part", "Parts", "Prediction", "Reading", "finding_hash", "load_finding", "save",
]  # fmt: skip
