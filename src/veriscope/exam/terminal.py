"""The exam for a terminal: counts with their bounds, the mutation table, the figures of a type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from veriscope.exam.again import Mutation
from veriscope.exam.examine import WORDS, Ahead, rows
from veriscope.exam.keep import Outcome
from veriscope.exam.methods import Calibration
from veriscope.exam.pages import methods, said, slips
from veriscope.exam.results import both, part
from veriscope.trials.evidence import to_plain
from veriscope.trials.statistics import clopper_pearson

SHORT = ("supp.", "ref.", "inc.", "cond.", "underd.", "inv.")  # WORDS, for narrow windows


def table(counted: Sequence[dict[str, Any]]) -> Table:
    """The rows for a terminal, with the exact 95% bound on the rate that matters for each truth."""
    out = Table(box=None, pad_edge=False)
    for column in ("type", "truth", "grade", "kind", "bed", "n", *SHORT, "support, 95%", "s each"):
        out.add_column(column, justify="left" if column in ("type", "truth", "kind", "bed") else "right")
    for row in counted:
        low, high = clopper_pearson(row["supported"], row["n"])
        bound = f">= {low:.0%}" if row["truth"] else f"<= {high:.1%}"
        out.add_row(
            row["type"],
            "true" if row["truth"] else "false",
            row["grade"],
            row["trap"],
            row["bed"],
            str(row["n"]),
            *(str(row[w.lower()]) for w in WORDS),
            bound,
            f"{row['seconds']:.1f}",
        )
    return out


def mutation_table(found: Sequence[Mutation]) -> Table:
    """What each gate holds back: the kind of false claim whose support rises most without it."""
    out = Table(box=None, pad_edge=False)
    for column in ("type", "gate", "title", "held back most", "with", "without", "n", "refuses", "alone", "hasty"):
        out.add_column(column, justify="left" if column in ("type", "gate", "title", "held back most") else "right")
    for m in found:
        nothing = "chooses among the other words" if m.chooses else "carries no weight here"
        most = f"{m.grade} {m.trap} ({m.bed})" if m.trap else nothing
        with_, without = (str(m.before), str(m.after)) if m.trap else ("", "")
        held = (str(m.n), str(m.refuses), _alone(m), str(m.hasty))
        out.add_row(m.claim_type, m.gate, m.title, most, with_, without, *held)
    return out


def _alone(found: Mutation) -> str:
    """How many false claims a gate alone holds back, and of which grades."""
    return f"{found.total} ({', '.join(f'{n} {grade}' for grade, n in found.rises.items())})" if found.total else "0"


def figure_table(outcomes: Sequence[Outcome]) -> Table:
    """The figures of each claim type that has false claims and true ones, side by side."""
    out = Table(box=None, pad_edge=False)
    parts = {}
    for claim_type in sorted({o.claim_type for o in outcomes}):
        mine = [o for o in outcomes if o.claim_type == claim_type]
        if both(mine):
            parts[claim_type] = said(part(mine, date=""))
    for column in ("", *parts) if parts else ():
        out.add_column(column, justify="right" if column else "left")
    for name in next(iter(parts.values()), ()):
        out.add_row(name, *(column[name] for column in parts.values()))
    return out


def weak_table(outcomes: Sequence[Outcome]) -> Table:
    """Kinds of claim that the verifier got wrong."""
    counted = rows(outcomes)
    found = [
        slip for t in sorted({r["type"] for r in counted}) for slip in slips([r for r in counted if r["type"] == t])
    ]
    title = "Where it went wrong" if found else "No false claim was supported and no clearly true one missed."
    out = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in ("type", "claim", "grade", "bed", "what goes wrong") if found else ():
        out.add_column(column)
    for row, what in found:
        truth = "true" if row["truth"] else "false"
        out.add_row(row["type"], f"{truth}: {row['trap']}", row["grade"], row["bed"], what)
    return out


def begins(ahead: Ahead) -> str:
    """What an exam has to do, in a line before it begins."""
    if not ahead.claims:
        return f"{ahead.kept} claims, all kept from before"
    kept = f" ({ahead.kept} more are kept from before)" if ahead.kept else ""
    time = "how long is not known yet" if ahead.minutes is None else f"about {max(ahead.minutes, 1):.0f} min"
    workers = f"{ahead.processes} process{'es' if ahead.processes > 1 else ''}"
    return f"{ahead.claims} claims to try{kept}: {time} in {workers}. Stop at any time, the same command goes on."


def method_table(found: Sequence[Calibration]) -> Table:
    """What each method does on planted truth, as its page has it."""
    out = Table(box=None, pad_edge=False)
    lines = methods({"methods": {"rows": [to_plain(c) for c in found]}}).splitlines()
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for column in head:
        out.add_column(column)
    for cells in body:
        out.add_row(*cells)
    return out
