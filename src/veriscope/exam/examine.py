"""Put planted claims through the trials and count the verdicts.

A planting is one claim with the truth about it. Each bed offers `plantings(claim_type, count, seed)`; each is
built, fitted and tried the public way, in a ledger of its own.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from veriscope.exam.planting import Planting
from veriscope.ledger import Ledger, use, versions
from veriscope.trials.evidence import Verdict
from veriscope.trials.statistics import clopper_pearson

WORDS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "CONDITIONAL", "UNDERDETERMINED", "INVALID")


def examine(
    claim_type: str,
    bed: str,
    *,
    count: int = 60,
    seed: int = 0,
    processes: int = 2,
    told: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Try `count` planted claims of each kind.

    Args:
        told: Called with the number of claims done and that of all, for a progress bar.

    Returns:
        One row a kind: {type, truth, grade, trap, n, supported, refuted, inconclusive, conditional,
        underdetermined, invalid, seconds}.
    """
    plantings = pkgutil.resolve_name(f"veriscope.zoo.{bed}:plantings")(claim_type, count, seed)
    done: list[tuple[str, float]] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(processes)) if processes > 1 else None
        for result in pool.map(_try, plantings, chunksize=2) if pool is not None else map(_try, plantings):
            done.append(result)
            if told is not None:
                told(len(done), len(plantings))
    kinds = list(dict.fromkeys((p.truth, p.grade, p.trap) for p in plantings))
    rows = []
    for kind in kinds:
        mine = [v for p, v in zip(plantings, done, strict=True) if (p.truth, p.grade, p.trap) == kind]
        words = Counter(word for word, _ in mine)
        rows.append(
            {
                "type": claim_type,
                "truth": kind[0],
                "grade": kind[1],
                "trap": kind[2],
                "n": len(mine),
                **{w.lower(): words.get(w, 0) for w in WORDS},
                "seconds": round(sum(s for _, s in mine) / len(mine), 2),
            }
        )
    return rows


def _try(planting: Planting) -> tuple[str, float]:
    import torch

    from veriscope.trials.trial import trial

    torch.set_num_threads(1)
    with use(Ledger.in_memory()) as ledger:
        claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings))
        verdict: Verdict = trial(claim, subject=subject, ledger=ledger, seed=dict(planting.settings).get("seed", 0))
    return verdict.word, verdict.seconds


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for a terminal, with the exact 95% bound on the rate that matters for each truth."""
    out = Table(box=None, pad_edge=False)
    for column in ("type", "truth", "grade", "kind", "n", *(w.lower() for w in WORDS), "95% bound", "s each"):
        out.add_column(column, justify="left" if column in ("type", "truth", "kind") else "right")
    for row in rows:
        low, high = clopper_pearson(row["supported"], row["n"])
        bound = f">= {low:.0%} supported" if row["truth"] else f"<= {high:.1%} supported"
        out.add_row(
            row["type"],
            "true" if row["truth"] else "false",
            row["grade"],
            row["trap"],
            str(row["n"]),
            *(str(row[w.lower()]) for w in WORDS),
            bound,
            f"{row['seconds']:.1f}",
        )
    return out


def summary(rows: Sequence[dict[str, Any]], bed: str, date: str) -> dict[str, Any]:
    """What a verdict of the type prints of its own battery, and the rows behind it: the package's result file.

    Args:
        rows: Of one claim type, as `examine` gives them.
        bed: What the claims were planted in, in words.
        date: When, as YYYY-MM-DD.
    """
    false = [r for r in rows if not r["truth"]]
    twice = [r for r in rows if r["grade"] == "T1x2"]
    supported, n = sum(r["supported"] for r in false), sum(r["n"] for r in false)
    found = {
        "bed": bed,
        "date": date,
        "false_supported": supported,
        "false_n": n,
        "false_bound": clopper_pearson(supported, n)[1],
        "missed": sum(r["n"] - r["supported"] for r in twice),
        "true_n": sum(r["n"] for r in twice),
        "versions": versions(),
        "rows": list(rows),
    }
    return {rows[0]["type"]: found}
