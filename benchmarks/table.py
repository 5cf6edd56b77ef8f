"""results.json to the table in the README, each row with the goal that was set for it and whether it was met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, Goal, Workload

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
Row = dict[str, Any]

AGREES = 1e-4  # in logits or activations
LOWER = 1e-6  # relative excess of an objective


def table(results: dict[str, Any]) -> str:
    """The table in Markdown, and under it what ran where."""
    head = "| workload | threads | fastest peer | by hand | veriscope | to the fastest peer | goal | |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, work in WORKLOADS.items():
        mine = [row for row in results["rows"] if row["workload"] == name]
        for threads in sorted({row["threads"] for row in mine}):
            lines.append(line(work, unhindered([r for r in mine if r["threads"] == threads], mine, work)))
    return "\n".join([*lines, "", footnote(results)])


def line(work: Workload, rows: Sequence[Row]) -> str:
    """One workload at one number of threads."""
    threads = rows[0]["threads"]
    ours = best(rows, "ours", work)
    peer = best([r for r in rows if work.goal.against in ("", r["contestant"])], "peer", work)
    hand = _by_hand(work, rows)
    beside = ours["ratio_to_bare"] / peer["ratio_to_bare"] if ours and peer else None
    cells = [
        f"{work.name}: {work.what}",
        str(threads),
        _named(peer),
        "; ".join(_named(row) for row in hand) if hand else "",
        f"{ours['ratio_to_bare']:.3f}" if ours else _why_not(rows, work),
        "" if beside is None else _share(beside),
        promise(work.goal),
        verdict(work, rows),
    ]
    return f"| {' | '.join(cells)} |"


def unhindered(rows: Sequence[Row], everywhere: Sequence[Row], work: Workload) -> Sequence[Row]:
    """The rows, with a peer that all are measured by at its one-thread time where more threads only slow it down.

    Its threads and those of another library may stand in each other's way; to be faster than that proves nothing.
    """
    at = {row["threads"]: row for row in everywhere if row["contestant"] == work.base and row["kind"] == "peer"}
    here, alone = at.get(rows[0]["threads"]), at.get(1)
    if here is None or alone is None or not 0 < alone["seconds"] < here["seconds"]:
        return rows
    name = f"{work.base} (one thread; {here['seconds'] / alone['seconds']:.0f} times slower with {here['threads']})"
    rows = [{**row, "ratio_to_bare": row["seconds"] / alone["seconds"]} for row in rows if row is not here]
    return [*rows, {**alone, "contestant": name, "agreement": 0.0}]


def best(rows: Sequence[Row], kind: str, work: Workload, names: Sequence[str] = ()) -> Row | None:
    """The fastest of a kind (and of these names) that was measured and agrees with the reference."""
    able = [r for r in rows if r["kind"] == kind and (not names or r["contestant"] in names) and agrees(r, work)]
    return min(able, key=lambda row: row["ratio_to_bare"], default=None)


def agrees(row: Row, work: Workload) -> bool:
    """Whether a row was measured and its outcome is that of the reference (which has nothing to agree with)."""
    if "not_measured" in row or row["ratio_to_bare"] is None:
        return False
    if row["agreement"] is None:
        return row["contestant"] in (work.reference, work.base)
    return row["agreement"] <= (LOWER if work.compare == "objective" else AGREES)


def verdict(work: Workload, rows: Sequence[Row]) -> str:
    """ "met", or what was missed by how much, or why nothing can be said."""
    ours = best(rows, "ours", work)
    if ours is None:
        return ""
    goal, missed, unknown = work.goal, list[str](), list[str]()
    peer = best([r for r in rows if goal.against in ("", r["contestant"])], "peer", work)
    hand = best(rows, "tuned", work, goal.tuned_is)
    for bound, other, what, unit in (
        (goal.peer, peer, "peer", "ratio_to_bare"),
        (goal.tuned, hand, "by hand", "ratio_to_bare"),
        (goal.memory, peer, "memory", "peak_mib"),
    ):
        if not bound:
            continue
        if other is None or not other.get(unit) or ours.get(unit) is None:
            unknown.append(what)
        elif ours[unit] / other[unit] > value(bound):
            missed.append(f"{what} {_share(ours[unit] / other[unit])}")
    if missed:
        return f"missed ({', '.join(missed)})"
    return f"not judged: {' and '.join(unknown)} not measured" if unknown else "met"


def value(bound: str) -> float:
    """A bound as a number: "1/3.8" or "0.70"."""
    above, _, below = bound.partition("/")
    return float(above) / float(below or 1)


def promise(goal: Goal) -> str:
    """A goal in words."""
    parts = [f"{goal.peer} of {goal.against or 'the peer'}"]
    parts += [f"{goal.tuned} of by hand"] if goal.tuned else []
    parts += [f"{goal.memory} of its memory"] if goal.memory else []
    return ", ".join(parts)


def _by_hand(work: Workload, rows: Sequence[Row]) -> list[Row]:
    """What the goal names, and what is faster still: nothing that beats us is left out."""
    named, fastest = best(rows, "tuned", work, work.goal.tuned_is), best(rows, "tuned", work)
    if not work.goal.tuned_is or named is None or fastest is None or named is fastest:
        return [row for row in (fastest,) if row]
    return [named, fastest]


def _named(row: Row | None) -> str:
    return "" if row is None else f"{row['contestant']} {row['ratio_to_bare']:.2f}"


def _why_not(rows: Sequence[Row], work: Workload) -> str:
    mine = [row for row in rows if row["kind"] == "ours"]
    if mine and "not_measured" in mine[0]:
        return f"not measured: {mine[0]['not_measured']}"
    return f"off by {mine[0]['agreement']:.0e}" if mine and mine[0]["agreement"] is not None else "not measured"


def _share(ratio: float) -> str:
    return f"1/{1 / ratio:.1f}" if ratio < 0.5 else f"{ratio:.2f}"


def footnote(results: dict[str, Any]) -> str:
    """Rounds, machine, versions, agreement and who is missing."""
    machine, rows = results["machine"], results["rows"]
    measured = [r for r in rows if "not_measured" not in r and r["agreement"] is not None]
    worst = max((r["agreement"] for r in measured if WORKLOADS[r["workload"]].compare != "objective"), default=0.0)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    missing = sorted({f"{r['contestant']} ({r['not_measured']})" for r in rows if "not_measured" in r})
    missing += [f"{name} ({why})" for name, why in results["not_yet"].items()]
    busy = " (busy with other work: rough numbers)" if (machine["load"] or 0) > machine["cores"] / 4 else ""
    return (
        f"Time to that of bare forward passes (W5: to scikit-learn's), medians of {results['rounds']} interleaved "
        f"rounds on {results['date']}; {machine['cpu']}, {machine['cores']} cores, load {machine['load']} at "
        f"the start{busy}. All agree with a forward pass with hooks to {worst:.0e} in logits and activations. "
        f"{versions}. "
        f"Not measured: {'; '.join(missing) or 'nothing'}."
    )


def write(readme: Path, text: str) -> None:
    """Put a table between the markers of a README.

    Raises:
        ValueError: It has no markers.
    """
    whole = readme.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise ValueError(f"{readme.name} has no place for the table: put {BEGIN} and {END} on lines of their own.")
    before, rest = whole.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def between(readme: Path) -> str:
    """The table that stands in a README."""
    return readme.read_text(encoding="utf-8").split(BEGIN, 1)[1].split(END, 1)[0].strip()
