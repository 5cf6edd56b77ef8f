"""Planted claims about compiled programs, for the exam: C1, C2 and C3, true and false.

Every finding is fitted on dev by a public method, as a user would fit it; only named heads are written down. Which
program a claim is about goes round with its number. All networks are rotated; final ones are of the large size, the
others of the medium.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import optimize

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.claims.represents import Represents
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples
from veriscope.findings import Change, Origin, Part, Parts, Reading
from veriscope.methods import method
from veriscope.subjects import Subject
from veriscope.zoo.programs.bed import ProgramBed
from veriscope.zoo.programs.effects import bed_of_removal, bits_left, flips_beyond_search

STEP = {"C1": 0.05, "C2": 0.10, "C3": 0.10}  # smallest effects: bits, share of pairs, clean ranges
NOISE = {"reverse": 0.03, "histogram": 0.003}  # weight noise at which the program's answers still stand
FITS = ("MeanDifference", "LogisticProbe")
ALL = ("reverse", "histogram", "sort", "fraction", "dyck", "most_frequent")
FETCHED = ("reverse", "sort", "most_frequent")  # main variable computed by a head: its copies can come late
ASKING = ("reverse", "histogram", "sort")  # with a variable at the query position that only a head reads
# The bit of the main variable can't be read off the words. (Nor can that of "dyck"; but nearly all that varies at its
# query position is that bit, so that a random direction reads it as well.)
HIDDEN = ("reverse", "histogram")
NUMBERS = ("histogram", "fraction", "dyck")  # the main variable stands as numbers before it stands as a code
# A late second copy hangs on what stands at the query position, and the variable goes with nothing else there that an
# eraser would take with it (in "sort" it goes with the place that is asked for).
ERASABLE = ("reverse",)


@dataclass(frozen=True)
class Kind:
    """One kind of planted claim: the programs that it goes round, and the settings of its build."""

    truth: bool
    grade: str
    trap: str
    programs: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...] = ()


def kinds(claim_type: str) -> tuple[Kind, ...]:
    """All kinds of a claim type; none for C4 and later."""
    return {"C1": _C1, "C2": _C2, "C3": _C3}.get(claim_type, ())


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """`count` claims of every kind of a type, each on a bed of its own seed."""
    first = seed * 100_000 + (FINAL if final else 0)
    out = []
    for kind in kinds(claim_type):
        for i in range(count):
            program = kind.programs[i % len(kind.programs)]
            settings = {
                "program": program,
                "seed": first + i,
                "size": "large" if final else "medium",
                "rotated": True,
                "fit": FITS[i // len(kind.programs) % 2],
                **dict(kind.settings),
            }
            if settings.pop("noisy", False):
                settings["noise"] = NOISE[program]
            build = f"veriscope.zoo.programs.claims:{_BUILDS[claim_type]}"
            out.append(Planting(claim_type, kind.truth, kind.grade, kind.trap, build, tuple(settings.items())))
    return out


_BUILDS = {"C1": "represents", "C2": "mediates", "C3": "necessary"}


def _dialled(claim_type: str, programs: tuple[str, ...], trap: str, *rest: tuple[str, Any]) -> tuple[Kind, ...]:
    """True claims at half, one, two and four times the smallest effect."""
    return tuple(
        Kind(True, f"T1x{times:g}", f"{trap}, {words} the smallest effect", programs,
             (("effect", round(times * STEP[claim_type], 6)), *rest))
        for times, words in ((0.5, "half"), (1, "once"), (2, "twice"), (4, "four times"))
    )  # fmt: skip


_C1 = (
    Kind(False, "F0", "coin", ALL, (("variable", "coin"),)),
    Kind(False, "F1", "stands in the words themselves", ("fraction", "sort")),
    Kind(False, "F1", "before it is computed", HIDDEN, (("where", "before"),)),
    Kind(False, "F1", "after it was overwritten", ("reverse",),
         (("effect", 0.2), ("variable", "idle bit"), ("where", "forgotten"))),
    Kind(False, "F2", "best of 400 random directions", HIDDEN, (("effect", 0.2), ("fit", "SearchedDirection"))),
    Kind(False, "F3", "twice its size claimed", HIDDEN, (("effect", 0.2), ("claimed", 0.4))),
    Kind(True, "T0", "plain", HIDDEN),
    # Few directions vary at these sites, so a random one reads much of the bit: what is claimed is what lies beyond.
    *_dialled("C1", HIDDEN, "noisy labels", ("beyond_search", True), ("texts", 6_000)),
    Kind(True, "T2", "noisy weights", tuple(NOISE), (("effect", 0.2), ("noisy", True))),
    Kind(True, "T2", "a number, not a code", ("histogram",), (("effect", 0.2), ("where", "number"))),
)  # fmt: skip

_C2 = (
    Kind(False, "F0", "random direction", ALL, (("fit", "RandomDirection"),)),
    Kind(False, "F1", "before it is computed", (*FETCHED, "histogram"), (("where", "before"),)),
    Kind(False, "F1", "after it was read", ASKING, (("variable", "early"), ("where", "main"))),
    Kind(False, "F1", "idle head", ("reverse", "sort"), (("variable", "idle"), ("where", "main"))),
    Kind(False, "F1", "correlates, computed, not read", ("most_frequent",), (("variable", "idle"), ("where", "main"))),
    Kind(False, "F2", "best of 400 random directions", ALL, (("fit", "SearchedDirection"),)),
    Kind(False, "F3", "twice its size claimed", FETCHED, (("effect", 0.2), ("claimed", 0.4))),
    Kind(False, "F3", "one of two copies as the one", FETCHED, (("how", "average"), ("weight", 0.4), ("late", True))),
    Kind(True, "T0", "plain", ALL),
    Kind(True, "T0", "an early variable", ("reverse", "sort"), (("variable", "early"), ("where", "unread"))),
    *_dialled("C2", FETCHED, "read in a share of the texts"),
    Kind(True, "T2", "noisy weights", tuple(NOISE), (("noisy", True),)),
    Kind(True, "T2", "two copies, averaged", ALL, (("how", "average"), ("weight", 0.5))),
    Kind(True, "T2", "two copies, either is enough", ALL, (("how", "either"),)),
    Kind(True, "T2", "numbers, not a code", NUMBERS, (("where", "number"),)),
)

_C3 = (
    Kind(False, "F0", "random direction", ALL, (("fit", "RandomDirection"),)),
    Kind(False, "F1", "after it was read", ("reverse", "histogram"), (("variable", "early"), ("where", "main"))),
    Kind(False, "F1", "idle variable", ALL, (("variable", "idle"), ("where", "main"))),
    Kind(False, "F1", "idle head", ALL, (("heads", ("idle0.0",)),)),
    Kind(False, "F1", "head of another task", ALL, (("heads", ("second",)),)),
    Kind(False, "F2", "best of 400 random directions", ALL, (("fit", "SearchedDirection"),)),
    Kind(False, "F3", "twice its size claimed", ERASABLE, (("effect", 0.2), ("claimed", 0.4))),
    Kind(
        False,
        "F3",
        "one of two copies, either is enough",
        ("reverse", "most_frequent"),
        (("how", "either"), ("late", True)),
    ),
    Kind(False, "F3", "one of two heads, either is enough", FETCHED, (("how", "either"), ("heads", ("main",)))),
    Kind(True, "T0", "plain", ALL),
    Kind(True, "T0", "one head", FETCHED, (("heads", ("main",)),)),
    *_dialled("C3", ERASABLE, "recomputed later"),
    Kind(True, "T2", "noisy weights", tuple(NOISE), (("noisy", True),)),
    Kind(True, "T2", "two copies, either is enough", ALL, (("how", "either"),)),
    Kind(True, "T2", "both of two heads, either is enough", FETCHED, (("how", "either"), ("heads", ("main", "again")))),
)


# ---- building them ----------------------------------------------------------------------------------------------


def represents(
    program: str,
    seed: int,
    size: str,
    fit: str,
    variable: str = "bit",
    where: str = "main",
    effect: float = 1.0,
    claimed: float = STEP["C1"],
    texts: int = 2_000,
    beyond_search: bool = False,
    **dials: Any,
) -> tuple[Represents, Subject]:
    """A C1 claim about a bit of a text, with so many of its labels turned over that `effect` bits are left to read.

    With `beyond_search`, so many are left beyond what the best of 20 random directions there reads.
    """
    bed = ProgramBed(program, seed, size, texts=texts, idle=3, forget=where == "forgotten", **dials)
    site = _site(bed, bed.source.main, where)
    flips = flips_beyond_search(bed, site, variable, effect) if beyond_search else flips_for(effect)
    data = bed.examples(variable, flips)
    finding = _fitted(bed, data, fit, site)
    return Represents(finding, of="label", on=data, name=f"{variable} of {program}", smallest_effect=claimed), (
        bed.subject()
    )


def mediates(
    program: str,
    seed: int,
    size: str,
    fit: str,
    variable: str = "main",
    where: str = "",
    effect: float = 0.0,
    claimed: float = STEP["C2"],
    texts: int = 1_800,
    **dials: Any,
) -> tuple[Mediates, Subject]:
    """A C2 claim; with `effect`, the variable is read in so many more of the texts than the commonest answer has."""
    bed = ProgramBed(program, seed, size, texts=texts, **dials)
    if effect:
        bed = ProgramBed(program, seed, size, texts=texts, how="route", late=True,
                         weight=_commonest(bed) + effect, **dials)  # fmt: skip
    name = _named(bed, variable)
    data = bed.pairs(name)
    finding = _fitted(bed, data, fit, _site(bed, name, where or "own"))
    assert isinstance(finding, Reading)
    return Mediates(finding, of="label", on=data, name=f"{name} of {program}", smallest_effect=claimed), bed.subject()


def necessary(
    program: str,
    seed: int,
    size: str,
    fit: str,
    variable: str = "main",
    where: str = "",
    effect: float = 0.0,
    claimed: float = STEP["C3"],
    heads: tuple[str, ...] = (),
    texts: int = 1_000,
    **dials: Any,
) -> tuple[Necessary, Subject]:
    """A C3 claim; with `effect`, a copy is computed later, and removing the first costs so much beyond random cuts."""
    bed = ProgramBed(program, seed, size, texts=texts, idle=3, **dials)
    if effect:
        bed = bed_of_removal(bed, effect)
    name = _named(bed, variable)
    data = bed.examples(name)
    finding: Reading | Change | Parts
    if heads:
        finding = _heads(bed, data, heads)
    else:
        eraser = "LEACE" if fit in FITS else fit
        finding = _fitted(bed, data, eraser, _site(bed, name, where or "own"))
    claim = Necessary(
        finding, of="label", on=data, off_target=(bed.side_questions(),), neutral=bed.neutral(),
        name=f"{name} of {program}", smallest_effect=claimed,
    )  # fmt: skip
    return claim, bed.subject()


def flips_for(bits: float) -> float:
    """Share of even labels of two classes to turn over, so that `bits` an item are left in them."""
    return 0.0 if bits >= 1 else float(optimize.brentq(lambda share: bits_left(share) - bits, 0.0, 0.5))


def _commonest(bed: ProgramBed) -> float:
    counts = Counter(str(item.last("answer")) for item in bed.items)
    return max(counts.values()) / len(bed.items)


def _named(bed: ProgramBed, variable: str) -> str:
    """The step's own name for "main", "early" or "idle"."""
    return {"main": bed.source.main, "early": bed.source.early, "idle": "idle0.0"}.get(variable, variable)


def _site(bed: ProgramBed, variable: str, where: str) -> str:
    """The residual stream behind "main" or the variable's "own" step, "before" it, where it is a "number", ..."""
    if where == "forgotten":
        return bed.site("forget")
    if where == "number":
        return bed.first_site(variable)
    if where == "unread":  # the last place before the main variable is computed from it
        return bed.before(bed.source.main)
    if where == "before":
        return bed.before(variable)
    return bed.site(variable if where == "own" else bed.source.main)


def _fitted(bed: ProgramBed, data: Examples, fit: str, site: str) -> Any:
    settings: dict[str, Any] = {"whiten": True} if fit == "MeanDifference" else {}
    return method(fit, site=site, seed=bed.seed % 10_007, **settings).fit(bed.subject(), data.dev)


def _heads(bed: ProgramBed, data: Examples, names: Sequence[str]) -> Parts:
    """Heads as a user would name them, out of all heads of the network."""
    again = bed.copies[-1]
    sites = [bed.compiled.head[{"main": bed.copies[0], "again": again}.get(name, name)] for name in names]
    origin = Origin("named by hand", {}, bed.subject().hash, data.hash, "label", sites[0], "last", 0, 1)
    universe = tuple(Part(site) for site in bed.compiled.head.values())
    return Parts(tuple(Part(s) for s in sites), (1.0,) * len(sites), universe, origin)
