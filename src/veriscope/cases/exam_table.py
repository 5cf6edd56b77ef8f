"""The exam of the cause list for a terminal, and as tables of the docs that are written from the result file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from veriscope.cases.exam import right
from veriscope.errors import UserError
from veriscope.trials.statistics import clopper_pearson

Row = Mapping[str, Any]
PAGE = "docs/exam.md"
NOT_YET = "not measured yet"
ASKED = ("planted cause named first", "“unknown” where no entry fits", "a cause named of a sound log")
_MARKS = re.compile(r"(<!-- cases: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def case_table(rows: Sequence[Row]) -> Table:
    """Rows of `veriscope.cases.exam.rows`, with the share that is right and its 95% interval."""
    out = Table(box=None, pad_edge=False)
    for column in ("who", "planted", "n", "first", "listed", "unknown", "wrong", "right, 95%", "s each"):
        out.add_column(column, justify="left" if column in ("who", "planted") else "right")
    for row in rows:
        counts = (str(row[name]) for name in ("n", "first", "listed", "unknown", "wrong"))
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        out.add_row(row["who"], row["cause"].replace("_", " "), *counts, interval, f"{row['seconds']:.1f}")
    return out


def total_table(rows: Sequence[Row]) -> Table:
    """The totals of each contestant."""
    out = Table(box=None, pad_edge=False)
    out.add_column("who")
    for name in ASKED:
        out.add_column(name, justify="right")
    for who, found in totals(rows).items():
        out.add_row(who, *(_share(*found[name]) for name in ASKED))
    return out


def totals(rows: Sequence[Row]) -> dict[str, dict[str, tuple[int, int]]]:
    """By contestant and question of `ASKED`: how often, of how many. Listed causes are counted together."""
    out = {}
    for who in dict.fromkeys(row["who"] for row in rows):
        mine = [row for row in rows if row["who"] == who]
        listed = [row for row in mine if row["cause"] not in ("unlisted", "clean")]
        unlisted, clean = ([row for row in mine if row["cause"] == name] for name in ("unlisted", "clean"))
        out[who] = dict(zip(ASKED, (_sum(listed, "first"), _sum(unlisted, "unknown"), _sum(clean, "wrong")),
                            strict=True))  # fmt: skip
    return out


def _sum(rows: Sequence[Row], name: str) -> tuple[int, int]:
    return sum(row[name] for row in rows), sum(row["n"] for row in rows)


def _share(k: int, n: int) -> str:
    """A count, and its 95% interval (Clopper and Pearson)."""
    if not n:
        return "–"
    low, high = clopper_pearson(k, n, 0.975)
    return f"{k} of {n} [{low:.0%}, {high:.0%}]"


# --- tables of the docs -----------------------------------------------------------------------------------------------


def write(folder: Path, results: Mapping[str, Any]) -> Path:
    """Fill in the tables of the cause list in a folder's docs.

    Raises:
        UserError: The page is not there, so this is not the project's folder.
    """
    page = folder / PAGE
    if not page.is_file():
        raise UserError(f"There is no {PAGE} in {folder}. Run this in the project's own folder.")
    page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    return page


def filled(text: str, results: Mapping[str, Any]) -> str:
    """A page's text with every table between marks `<!-- cases: NAME -->` and `<!-- end -->` written anew.

    Raises:
        UserError: A mark names no table.
    """

    def fresh(found: re.Match[str]) -> str:
        name = found[2]
        if name not in TABLES:
            raise UserError(f"There is no table '{name}' of the cause list. Tables: {', '.join(TABLES)}")
        table = TABLES[name](results) if results.get("rows") else f"{NOT_YET}\n"
        return f"{found[1]}\n{table}\n{found[3]}"

    return _MARKS.sub(fresh, text)


def _totals(results: Mapping[str, Any]) -> str:
    body = [[who, *(_share(*found[name]) for name in ASKED)] for who, found in totals(results["rows"]).items()]
    return _markdown(["", *ASKED], body)


def _rates(results: Mapping[str, Any]) -> str:
    """One line a planted cause, one column a contestant: what is right, as in `veriscope.cases.exam.rows`."""
    people = list(dict.fromkeys(row["who"] for row in results["rows"]))
    found = {(row["who"], row["cause"]): row for row in results["rows"]}
    body = []
    for cause in dict.fromkeys(row["cause"] for row in results["rows"]):
        mine = [found.get((who, cause)) for who in people]
        body.append([cause.replace("_", " "), *(_share(right(row), row["n"]) if row else "–" for row in mine)])
    return _markdown(["planted", *people], body)


def _confusion(results: Mapping[str, Any]) -> str:
    """What was said instead of what was planted, the tool told what was expected."""
    counts: Mapping[str, Mapping[str, int]] = results["confusion"].get("veriscope", {})
    body = []
    for cause, said in counts.items():
        others = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in said.items() if name != cause)
        body.append([cause.replace("_", " "), said.get(cause, 0), others or "–"])
    return _markdown(["planted", "said", "said instead"], body)


def _versions(results: Mapping[str, Any]) -> str:
    with_ = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    row = [results["version"], results["seed"], results["date"], results["code"][:8], with_]
    return _markdown(["list", "seed", "date", "code", "with"], [row])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


TABLES = {"totals": _totals, "rates": _rates, "confusion": _confusion, "versions": _versions}
