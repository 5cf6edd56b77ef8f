"""The exam's result file: for each claim type a part for development claims and one for final ones.

What is fitted or chosen (margins, the calibration of stated confidence) is fitted on development claims and frozen in
their part. The final part is only measured: it takes both from there, and never lends any back.
"""

from __future__ import annotations

import json
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from veriscope.claims.battery import GateSpec
from veriscope.errors import NotRun, UserError
from veriscope.exam.again import mutations, reached, trade_off
from veriscope.exam.code import code_hash
from veriscope.exam.examine import first_turn, rows
from veriscope.exam.figures import (
    auroc,
    brier,
    calibrate,
    flips,
    likelihood_ratios,
    log_score,
    out_of_sample,
    sensitivity,
)
from veriscope.exam.keep import BATTERIES, Outcome
from veriscope.ledger import versions
from veriscope.ledger.canonical import digest
from veriscope.trials.evidence import Estimate, to_plain
from veriscope.trials.rates import Confidence, evidence_score
from veriscope.trials.statistics import clopper_pearson

FALSE = ("F0", "F1", "F2")  # grades whose support counts as a false support; F3, overstated truths, stands beside
TRUE = ("T0", "T1x2", "T1x4", "T2")  # true by a clear distance: at the smallest effect itself a coin may decide
TWICE = "T1x2"


def part(outcomes: Sequence[Outcome], *, date: str, frozen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All figures of one claim type, from the outcomes of its development or of its final claims.

    Args:
        outcomes: Of one claim type, those under further engine seeds among them.
        date: When, as YYYY-MM-DD.
        frozen: The development part, for final claims: its calibration is used and none is fitted.

    Raises:
        UserError: There are no false claims or no true ones, so that nothing can be told apart.
    """
    once = first_turn(outcomes)
    false, true = _false(once), _true(once)
    if not both(once):
        raise UserError(
            f"The exam of {once[0].claim_type} has {len(false)} false claims of grade {', '.join(FALSE)} and "
            f"{len(true)} true ones of {', '.join(TRUE)}: both are needed. Run all of its grades."
        )
    found: dict[str, Any] = {"bed": planted_in(once), "date": date, "versions": versions(), "rows": rows(once)}
    found["instrument_clusters"] = instrument_clusters(once)
    found |= headline(once) | _evidence(false, true, once, frozen)
    twice = [o for o in true if o.grade == TWICE]
    if twice:
        supported = [sum(o.word == "SUPPORTED" for o in group) for group in (twice, false)]
        found["likelihood_ratios"] = asdict(likelihood_ratios(supported[0], len(twice), supported[1], len(false)))
    found["sensitivity"] = _sensitivity(once)
    found["cost"] = _cost(once)
    found["margins"] = margins(once)
    found["judged_by"] = judged_by(once[0].claim_type, usual_battery(once))
    found["trade_off"] = [asdict(t) for t in trade_off(false, twice or true)]
    found["mutations"] = [asdict(m) for m in mutations(once)]
    found["flips"] = _flips(outcomes)
    found["rivals"] = rival_rows(once)
    return found


def both(once: Sequence[Outcome]) -> bool:
    """Whether there are false claims and true ones, so that there is something to tell apart."""
    return bool(_false(once) and _true(once))


def _false(once: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in once if not o.truth and o.grade in FALSE]


def _true(once: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in once if o.truth and o.grade in TRUE]


def instrument_clusters(once: Sequence[Outcome]) -> int:
    """As many clusters as the instrument check of nine in ten false claims had: of smaller trials little is known."""
    checks = [r.estimate for o in _false(once) for r in o.gates if r.gate == "i0"]
    sizes = sorted(e.clusters for e in checks if isinstance(e, Estimate))
    return sizes[len(sizes) // 10] if sizes else 0


def planted_in(once: Sequence[Outcome]) -> str:
    """The beds in words."""
    names = sorted({o.bed for o in once})
    return f"the bed{'s' if len(names) > 1 else ''} {', '.join(names)}"


def headline(once: Sequence[Outcome]) -> dict[str, Any]:
    """What every verdict of the type prints: false supports with their bound, the worst kind, true claims missed."""
    counted = rows(once)
    false = [r for r in counted if not r["truth"] and r["grade"] in FALSE]
    over = [r for r in counted if not r["truth"] and r["grade"] not in FALSE]
    twice = [r for r in counted if r["truth"] and r["grade"] == TWICE]
    supported, n = (sum(r[k] for r in false) for k in ("supported", "n"))
    worst = max(false, key=lambda r: r["supported"] / r["n"])
    everyone = [r for r in counted if (r["grade"] in FALSE) or r["grade"] in TRUE]
    return {
        "false_supported": supported,
        "false_n": n,
        "false_bound": clopper_pearson(supported, n)[1],
        "worst": {k: worst[k] for k in ("bed", "grade", "trap", "supported", "n")},
        "overstated_supported": sum(r["supported"] for r in over),
        "overstated_n": sum(r["n"] for r in over),
        "missed": sum(r["n"] - r["supported"] for r in twice),
        "true_n": sum(r["n"] for r in twice),
        "inconclusive": sum(r["inconclusive"] for r in everyone),
        "decided_n": sum(r["n"] for r in everyone),
    }


def _evidence(
    false: Sequence[Outcome], true: Sequence[Outcome], once: Sequence[Outcome], frozen: Mapping[str, Any] | None
) -> dict[str, Any]:
    """AUROC of the evidence score, and how well the confidence stated from it is calibrated."""
    over = [o for o in once if not o.truth and o.grade not in FALSE]
    asked = [*false, *over, *true]
    scores, truths = [score(o) for o in asked], [o.truth for o in asked]
    counted = [*false, *true]
    found: dict[str, Any] = {"auroc": auroc([score(o) for o in counted], [o.truth for o in counted])}
    if frozen is not None:
        confidence = Confidence(**frozen["confidence"])
        stated: list[float] | NotRun = [confidence.of(s) for s in scores]
    else:
        confidence = calibrate(scores, truths)
        stated = out_of_sample(scores, truths, [o.seed for o in asked])
    if isinstance(stated, NotRun):
        found |= {"brier": to_plain(stated), "log_score": to_plain(stated)}
    else:
        found |= {"brier": brier(stated, truths), "log_score": log_score(stated, truths)}
    return found | {"confidence": asdict(confidence)}


def score(outcome: Outcome) -> float:
    """The evidence score of a kept claim: by the gates that its trial looked at."""
    return evidence_score(outcome.battery, reached(outcome.gates))


def margins(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The margin of each gate in force: the usual one, where single claims raised theirs."""
    return {s.gate: float(s.margin) for s in usual_battery(outcomes) if s.margin is not None}


def usual_battery(outcomes: Sequence[Outcome]) -> list[GateSpec]:
    """The gates that most claims are judged by, each as most claims have it.

    A claim may raise a margin, and one that claims an advantage has a rival that gates or a gate more.
    """
    met: dict[str, Counter[GateSpec]] = {}
    for spec in (s for o in outcomes for s in o.battery):
        met.setdefault(spec.gate, Counter())[spec] += 1
    return [c.most_common(1)[0][0] for c in met.values() if 2 * c.total() > len(outcomes)]


def judged_by(claim_type: str, battery: Sequence[GateSpec]) -> dict[str, Any]:
    """A fingerprint of what judges a type: each gate's place in the rule, and the code that runs it.

    Words (title, question) don't count, nor do margins, which are kept in full beside it.
    """
    own = BATTERIES.get(claim_type)
    code = code_hash(f"veriscope.claims.{own}", f"veriscope.trials.{own}", "veriscope.trials.decide") if own else ""
    gates = {s.gate: digest([s.role, s.unit, s.run, s.level, s.better, s.if_fired])[:12] for s in battery}
    return {"code": code, "gates": gates}


def _sensitivity(once: Sequence[Outcome]) -> dict[str, Any]:
    counts: dict[float, tuple[int, int]] = {}
    for o in once:
        if o.truth and o.grade.startswith("T1x"):
            multiple = float(o.grade.removeprefix("T1x"))
            hits, n = counts.get(multiple, (0, 0))
            counts[multiple] = hits + (o.word == "SUPPORTED"), n + 1
    return to_plain(sensitivity(counts) if counts else NotRun("no true claims of graded size"))


def _cost(once: Sequence[Outcome]) -> dict[str, float]:
    """Mean cost of a verdict: CPU seconds on one thread, forward passes of single examples; and of all around it."""
    return {
        "whole_seconds": round(sum(o.whole_seconds for o in once) / len(once), 2),
        "cpu_seconds": round(sum(o.cpu_seconds for o in once) / len(once), 2),
        "passes": round(sum(o.passes for o in once) / len(once)),
    }


def _flips(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    claims: dict[Any, list[str]] = {}
    for o in outcomes:
        claims.setdefault((o.kind, o.seed), []).append(o.word)
    several = [words for words in claims.values() if len(words) > 1]
    return to_plain(flips(several) if several else NotRun("no claim was tried under several seeds: --flips 5"))


def rival_rows(once: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How often other practice supports the same claims, beside the verifier, kind by kind."""
    kinds: dict[Any, list[Outcome]] = {}
    for o in once:
        if o.rivals:
            kinds.setdefault(o.kind, []).append(o)
    return [
        {
            "bed": bed,
            "truth": truth,
            "grade": grade,
            "trap": trap,
            "n": len(mine),
            "veriscope": sum(o.word == "SUPPORTED" for o in mine),
            **{name: sum(o.rivals[name] for o in mine) for name in mine[0].rivals},
        }
        for (bed, _, truth, grade, trap), mine in kinds.items()
    ]


# --- the file -------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """The result file, or nothing where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def merged(before: Mapping[str, Any], claim_type: str, which: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The results with one part put in. The other part of the type, and all other types, stay as they were."""
    types = {**before, claim_type: {**before.get(claim_type, {}), which: dict(found)}}
    return {name: types[name] for name in sorted(types)}


def record(path: Path, outcomes: Sequence[Outcome], *, final: bool, date: str) -> dict[str, Any]:
    """Work out the figures of every claim type that was examined and put them into a result file.

    Args:
        final: Whether these are final claims; then the development part must be there, with the same margins.

    Raises:
        UserError: Final claims before any development part, or under margins other than were frozen there.
    """
    results = read(path)
    for claim_type in sorted({o.claim_type for o in outcomes}):
        mine = [o for o in outcomes if o.claim_type == claim_type]
        frozen = _frozen(results, claim_type, usual_battery(mine)) if final else None
        found = part(mine, date=date, frozen=frozen)
        if frozen is not None:
            found["judged_by"]["as_frozen"] = found["judged_by"]["code"] == frozen["judged_by"]["code"]
        results = merged(results, claim_type, "final" if final else "dev", found)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def packaged() -> Path:
    """The result file of the package, which every verdict prints its line from."""
    return Path(str(resources.files("veriscope").joinpath("exam", "results.json")))


def check_frozen(path: Path, types: Sequence[str]) -> list[str]:
    """Refuse final claims before any is spent: without a development part, or under another battery than it froze.

    Returns:
        Types whose gates and margins are those that were frozen, but whose code is not to the letter.

    Raises:
        UserError: So it is, of one of these claim types.
    """
    results, changed = read(path), []
    for claim_type in types:
        battery = pkgutil.resolve_name(f"veriscope.claims.{BATTERIES[claim_type]}:BATTERY")
        dev = _frozen(results, claim_type, battery)
        if dev["judged_by"]["code"] != judged_by(claim_type, battery)["code"]:
            changed.append(claim_type)
    return changed


def _frozen(results: Mapping[str, Any], claim_type: str, battery: Sequence[GateSpec]) -> Mapping[str, Any]:
    """The development part, if final claims may be held against it."""
    dev = results.get(claim_type, {}).get("dev")
    if dev is None or "judged_by" not in dev:
        raise UserError(
            f"{claim_type} has no development part to take margins and calibration from. Run it first without --final."
        )
    now, then = {s.gate: s.margin for s in battery if s.margin is not None}, dev["margins"]
    changed = sorted(g for g in now.keys() | then.keys() if now.get(g) != then.get(g))
    if changed:
        raise UserError(
            f"The margins of {claim_type} are no longer those that were frozen ({', '.join(changed)}). Run the "
            f"development claims again, or put the margins back, before the final ones are spent."
        )
    gates, frozen = judged_by(claim_type, battery)["gates"], dev["judged_by"]["gates"]
    changed = sorted(g for g in gates.keys() | frozen.keys() if gates.get(g) != frozen.get(g))
    if changed:
        raise UserError(
            f"The battery of {claim_type} is no longer the one that was frozen ({', '.join(changed)} added, dropped or "
            f"changed). Run the development claims again before the final ones are spent."
        )
    return dev
