"""The exam of the cause list for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def case_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of `veriscope.cases.exam.rows`, with the share that is right and its 95% interval."""
    out = Table(box=None, pad_edge=False)
    for column in ("who", "planted", "n", "first", "listed", "unknown", "wrong", "right, 95%", "s each"):
        out.add_column(column, justify="left" if column in ("who", "planted") else "right")
    for row in rows:
        counts = (str(row[name]) for name in ("n", "first", "listed", "unknown", "wrong"))
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        out.add_row(row["who"], row["cause"].replace("_", " "), *counts, interval, f"{row['seconds']:.1f}")
    return out
