"""The beds that the exam knows, and someone else's by its import path."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence

from veriscope.errors import UserError, nearest
from veriscope.exam.planting import Bed, Planting

TYPES = ("C1", "C2", "C3", "C4")
ZOO = ("planted", "modes", "dormant", "redundant", "swaps", "programs", "bridge")


class UnknownBed(UserError):
    """A bed that is not there, or is not one."""

    def __init__(self, wanted: str, why: str) -> None:
        super().__init__(
            f"There is no bed '{wanted}' ({why}). {nearest(wanted, ZOO)}Beds of the zoo: {', '.join(ZOO)}. Your own "
            f"is a module with a function plantings(claim_type, count, seed, final), named by its import path: "
            f"--bed my_package.my_bed (in the folder of my_bed.py: PYTHONPATH=. veriscope exam --bed my_bed)"
        )


def bed(name: str) -> Bed:
    """One bed: of the zoo by its word, anyone's by its import path.

    Raises:
        UnknownBed: It can't be imported, or offers no plantings.
    """
    path = f"veriscope.zoo.{name}" if name in ZOO else name.rstrip(":")
    try:
        found = importlib.import_module(path)
    except ImportError as missing:
        raise UnknownBed(name, str(missing)) from None
    if not isinstance(found, Bed):
        raise UnknownBed(name, f"{path} has no function 'plantings'")
    return found


def beds(wanted: str = "all") -> Mapping[str, Bed]:
    """The named bed, or all of the zoo that are there: one that is not built yet is left out of "all"."""
    if wanted != "all":
        return {wanted.rstrip(":"): bed(wanted)}
    found = {}
    for name in ZOO:
        try:
            found[name] = bed(name)
        except UnknownBed:
            continue
    return found


def plantings(
    wanted: str,
    types: Sequence[str],
    count: int,
    seed: int = 0,
    final: bool = False,
    grade: str = "",
    trap: str = "",
    each_kind: bool = False,
) -> list[tuple[str, Planting]]:
    """Planted claims with the bed that each comes from.

    Args:
        wanted: A bed, or "all".
        types: Claim types, of "C1" ... "C4".
        count: Claims of each grade of a type, shared evenly among its kinds (rounded up), so that a grade that many
            beds plant is no dearer than one that few do.
        grade: Only this grade ("F2", "T1x2").
        trap: Only kinds with this text in their name.
        each_kind: Plant `count` of every kind instead.

    Raises:
        UnknownBed: A bed was named that is not there.
        UserError: Nothing is planted that fits.
    """
    known(types)
    found = beds(wanted)
    every = [(n, p) for n, b in found.items() for kind in types for p in b.plantings(kind, count, seed, final)]
    fitting = [(n, p) for n, p in every if grade in ("", p.grade) and trap.casefold() in p.trap.casefold()]
    if not fitting:
        kinds = "; ".join(sorted({f"{p.claim_type} {p.grade} {p.trap}" for _, p in every})) or "none"
        raise UserError(
            f"No bed of '{wanted}' plants such claims ({', '.join(types)}"
            f"{', grade ' + grade if grade else ''}{', trap ' + trap if trap else ''}). Planted there: {kinds}"
        )
    return fitting if each_kind else shared(fitting, count)


def known(types: Sequence[str]) -> Sequence[str]:
    """Claim types that the exam knows, handed back.

    Raises:
        UserError: It does not know one of them.
    """
    for name in types:
        if name not in TYPES:
            raise UserError(f"There is no claim type '{name}' in the exam. Types: {', '.join(TYPES)}")
    return types


def shared(planted: Sequence[tuple[str, Planting]], count: int) -> list[tuple[str, Planting]]:
    """The first few claims of each kind, so many that every grade of a type comes to `count` or a little more."""
    kinds: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for name, p in planted:
        kinds.setdefault((p.claim_type, p.grade), {})[name, p.trap] = 0
    out = []
    for name, p in planted:
        of_grade = kinds[p.claim_type, p.grade]
        if of_grade[name, p.trap] < math.ceil(count / len(of_grade)):
            of_grade[name, p.trap] += 1
            out.append((name, p))
    return out
