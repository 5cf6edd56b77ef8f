"""The exam on paper: tables for the README and docs/exam.md, written from the result file and never by hand.

A page holds a pair of marks for each table, `<!-- exam: NAME -->` and `<!-- end -->`; what stands between them is
replaced. A test holds both pages to the results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veriscope.errors import UserError
from veriscope.exam.curves import measured, svg
from veriscope.exam.examine import WORDS
from veriscope.exam.results import FALSE, TRUE, TWICE
from veriscope.trials.statistics import clopper_pearson

PAGES = ("docs/exam.md", "README.md")
PICTURE = "docs/exam-curves.svg"
NOT_YET = "not measured yet"
MISSED_MOST = 5  # kinds of true claim that are named for being missed
_MARKS = re.compile(r"(<!-- exam: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Fill in the tables of the pages in a folder.

    Raises:
        UserError: A page is not there, so this is not the project's folder.
    """
    for page in PAGES:
        if not (folder / page).is_file():
            raise UserError(f"There is no {page} in {folder}. Run this in the project's own folder.")
    for page in PAGES:
        text = (folder / page).read_text(encoding="utf-8")
        (folder / page).write_text(filled(text, results), encoding="utf-8")
    found = measured(shown(results))
    if found:
        (folder / PICTURE).write_text(svg(found), encoding="utf-8")
    return [folder / page for page in (*PAGES, *([PICTURE] if found else []))]


def filled(text: str, results: Mapping[str, Any]) -> str:
    """A page's text with every table between marks written anew.

    Raises:
        UserError: A mark names no table.
    """

    def fresh(found: re.Match[str]) -> str:
        name = found[2]
        if name not in TABLES:
            raise UserError(f"There is no exam table '{name}'. Tables: {', '.join(TABLES)}")
        return f"{found[1]}\n{TABLES[name](results)}\n{found[3]}"

    return _MARKS.sub(fresh, text)


# --- figures in words -------------------------------------------------------------------------------------------------


def said(part: Mapping[str, Any]) -> dict[str, str]:
    """Each figure of a part by its name, in words; what was not measured says so."""
    ratios = part.get("likelihood_ratios")
    cost, flips = part.get("cost"), part.get("flips")
    return {
        "false claims supported": _share(part["false_supported"], part["false_n"], "at most"),
        "worst kind": f"{part['worst']['trap']}: {part['worst']['supported']} of {part['worst']['n']}",
        "overstated claims supported": _share(part["overstated_supported"], part["overstated_n"], "at most"),
        "true claims missed at twice the smallest effect": _share(part["missed"], part["true_n"], "at most"),
        "inconclusive": _share(part["inconclusive"], part["decided_n"]),
        "effect found 80% of the time": _found_at(part.get("sensitivity")),
        "SUPPORTED multiplies the odds by at least": f"{ratios['supported_at_least']:.3g}" if ratios else NOT_YET,
        "anything else multiplies them by at most": _at_most(ratios),
        "AUROC of the evidence score": _number(part.get("auroc"), 3),
        "Brier score of stated confidence": _number(part.get("brier"), 3),
        "log score of stated confidence, bits": _number(part.get("log_score"), 3),
        "verdicts that differ between two engine seeds": _flips(flips),
        "cost of a verdict": f"{cost['cpu_seconds']:.1f} s, {cost['passes']:,} passes" if cost else NOT_YET,
    }


def _share(hits: int, n: int, bound: str = "") -> str:
    if not n:
        return "none planted"
    upper = f" ({bound} {clopper_pearson(hits, n)[1]:.1%})" if bound else f" ({hits / n:.0%})"
    return f"{hits} of {n}{upper}"


def _number(value: Any, digits: int) -> str:
    if isinstance(value, Mapping):
        return str(value["not_run"])
    return NOT_YET if value is None else f"{value:.{digits}f}"


def _at_most(ratios: Mapping[str, Any] | None) -> str:
    found = ratios and ratios["not_supported_at_most"]
    return f"{found:.2g}" if found is not None else NOT_YET


def _found_at(sensitivity: Mapping[str, Any] | None) -> str:
    if sensitivity is None:
        return NOT_YET
    if "not_run" in sensitivity:
        return str(sensitivity["not_run"])
    at, low, high = (sensitivity[k] for k in ("found_at", "low", "high"))
    interval = f"[{_times(low)}, {_times(high)}]"
    return f"{at['not_run']} {interval}" if isinstance(at, Mapping) else f"{at:.2f} times {interval}"


def _times(bound: float | None) -> str:
    return "not reached" if bound is None else f"{bound:.3g}"


def _flips(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOT_YET
    if "not_run" in found:
        return str(found["not_run"])
    return f"{found['rate']:.1%} ({found['changed']} of {found['claims']} claims changed)"


# --- tables -----------------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def parts(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every part that was measured: claim type, "final" or "development", figures; final first."""
    words = {"final": "final", "dev": "development"}
    return [(t, words[w], both[w]) for t, both in results.items() for w in words if w in both]


def shown(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Of each claim type the final part, or the development part while there is none."""
    first: dict[str, tuple[str, str, Mapping[str, Any]]] = {}
    for found in parts(results):
        first.setdefault(found[0], found)
    return list(first.values())


def headlines(results: Mapping[str, Any]) -> str:
    """One column a claim type: all figures. The worst kind stands beside the mean, which hides a broken gate."""
    found = shown(results)
    if not found:
        return f"{NOT_YET}\n"
    columns = [said(part) for *_, part in found]
    head = ["", *(f"{t}, {which} claims, {part['date']}" for t, which, part in found)]
    return markdown(head, [[name, *(c[name] for c in columns)] for name in columns[0]])


def kinds(results: Mapping[str, Any]) -> str:
    """Every kind of planted claim with the verdicts that it got."""
    body = [
        [r["type"], f"{_truth(r)}: {r['trap']}", r["grade"], r["bed"], r["n"], *(r[w.lower()] for w in WORDS)]
        for *_, part in shown(results)
        for r in part["rows"]
    ]
    return markdown(["type", "planted claim", "grade", "bed", "n", *(w.lower() for w in WORDS)], body)


def _truth(row: Mapping[str, Any]) -> str:
    return "true" if row["truth"] else "false"


def grades(results: Mapping[str, Any]) -> str:
    """Per type and grade the share of each verdict, SUPPORTED with its exact 95% bounds (each one-sided)."""
    body = []
    for t, _, part in shown(results):
        for grade in dict.fromkeys(r["grade"] for r in part["rows"]):
            mine = [r for r in part["rows"] if r["grade"] == grade]
            n, supported = sum(r["n"] for r in mine), sum(r["supported"] for r in mine)
            low, high = clopper_pearson(supported, n)
            others = [f"{sum(r[w.lower()] for r in mine) / n:.0%}" for w in WORDS[1:]]
            body.append([t, grade, n, f"{supported / n:.0%} [{low:.1%}, {high:.1%}]", *others])
    return markdown(["type", "grade", "n", *(w.lower() for w in WORDS)], body)


def gates(results: Mapping[str, Any]) -> str:
    """What each gate holds back; a check that chooses among the other words is here if it holds anything back too."""
    body = []
    for t, _, part in shown(results):
        for m in (m for m in part.get("mutations", ()) if m["trap"] or not m.get("chooses")):
            most = f"{m['grade']} {m['trap']}" if m["trap"] else "carries no weight here"
            rise = f"{m['before']} to {m['after']} of {m['n']}" if m["trap"] else f"0 of {m['n']}"
            alone = ", ".join(f"{n} {grade}" for grade, n in m["rises"].items()) or "0"
            body.append([t, f"{m['gate']} {m['title']}", most, rise, m["refuses"], alone])
    if not body:
        return f"{NOT_YET}\n"
    head = ["type", "without this gate", "rises most in", "supported", "false claims it refuses", "it alone"]
    return markdown(head, body)


def choosing(results: Mapping[str, Any]) -> str:
    """What the checks that stand in no claim's way to SUPPORTED do: claims that would be REFUTED without them."""
    body = [
        [t, f"{m['gate']} {m['title']}", m["refuses"], m["hasty"], m["hasty_true"]]
        for t, _, part in shown(results)
        for m in part.get("mutations", ())
        if m.get("chooses")
    ]
    if not body:
        return f"{NOT_YET}\n"
    return markdown(["type", "check", "false claims it stops", "REFUTED only without it", "true ones among them"], body)


def margins(results: Mapping[str, Any]) -> str:
    """The margins in force and what stricter or looser ones would have cost."""
    body = [
        [t, f"x{c['scale']:g}", *(f"{c[a]} of {c[b]}" for a, b in _TRADED)]
        for t, _, part in shown(results)
        for c in part.get("trade_off", ())
    ]
    if not body:
        return f"{NOT_YET}\n"
    return markdown(["type", "margins", "false supported", "true missed", "inconclusive"], body)


_TRADED = (("false_supported", "false_n"), ("missed", "true_n"), ("inconclusive", "n"))


PRACTICES = ("veriscope", "common practice", "shipped checks")


def rivals(results: Mapping[str, Any]) -> str:
    """By type: claims supported by veriscope and by other practice, false ones and those true at twice the effect."""
    body = []
    for t, _, part in shown(results):
        found = part.get("rivals", ())
        groups = {
            "false": [r for r in found if not r["truth"] and r["grade"] in FALSE],
            "overstated": [r for r in found if not r["truth"] and r["grade"] not in FALSE],
            "true, twice the smallest effect": [r for r in found if r["truth"] and r["grade"] == TWICE],
        }
        for name, mine in groups.items():
            n = sum(r["n"] for r in mine)
            counted = [sum(r[practice] for r in mine) for practice in PRACTICES]
            body += [[t, name, n, *(f"{k} ({k / n:.0%})" for k in counted)]] if n else []
    if not body:
        return f"{NOT_YET}\n"
    return markdown(["type", "planted claims", "n", *(f"supported by {n}" for n in PRACTICES)], body)


def curves(results: Mapping[str, Any]) -> str:
    """The picture of the sensitivity curves, which is a file beside the page."""
    if not measured(shown(results)):
        return f"{NOT_YET}\n"
    return f"![Share of true claims SUPPORTED, by the size planted]({Path(PICTURE).name})\n"


def weak(results: Mapping[str, Any]) -> str:
    """Kinds of claim that the verifier gets wrong, the worst first."""
    body = [
        [t, f"{_truth(r)}: {r['trap']}", r["grade"], r["bed"], what]
        for t, _, part in shown(results)
        for r, what in slips(part["rows"])
    ]
    if not body:
        return "no false claim was supported and no true one missed\n" if shown(results) else f"{NOT_YET}\n"
    return markdown(["type", "planted claim", "grade", "bed", "what goes wrong"], body)


def slips(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Of one type: false kinds with any support, then the true kinds missed most, with what happened in words.

    Of true claims those are meant that a clear distance makes true; of their misses the `MISSED_MOST` worst kinds.
    """
    false = sorted((r for r in rows if not r["truth"] and r["supported"]), key=lambda r: -r["supported"] / r["n"])
    true = [r for r in rows if r["truth"] and r["grade"] in TRUE and r["supported"] < r["n"]]
    true = sorted(true, key=lambda r: r["supported"] / r["n"])[:MISSED_MOST]
    said = [(r, f"supported in {r['supported']} of {r['n']}") for r in false]
    return said + [(r, f"missed in {r['n'] - r['supported']} of {r['n']} ({_words(r)})") for r in true]


def _words(row: Mapping[str, Any]) -> str:
    """The verdicts of a kind other than SUPPORTED."""
    return ", ".join(f"{row[w.lower()]} {w}" for w in WORDS[1:] if row[w.lower()])


def rivals_by_kind(results: Mapping[str, Any]) -> str:
    """Claims of each kind supported by veriscope and by other practice."""
    body = []
    for t, _, part in shown(results):
        for r in part.get("rivals", ()):
            cells = [f"{r[name]} of {r['n']}" for name in PRACTICES]
            body.append([t, f"{_truth(r)}: {r['trap']}", r["grade"], *cells])
    if not body:
        return f"{NOT_YET}\n"
    return markdown(["type", "planted claim", "grade", *(f"supported by {n}" for n in PRACTICES)], body)


def methods(results: Mapping[str, Any]) -> str:
    """The error of each method in each use, before any trial."""
    found = results.get("methods")
    if not found:
        return f"{NOT_YET}\n"
    body = [
        [
            r["claim_type"],
            r["method"],
            _share(r["false_positives"], r["nulls"], "at most"),
            _share(r["missed"], r["planted"], "at most"),
            f"{r['reseed_deviation']:.2g} {r['unit']}",
            _detectable(r["detectable"]),
        ]
        for r in found["rows"]
    ]
    head = [
        "type",
        "method",
        "false positives",
        "missed at twice the smallest effect",
        "reseed deviation",
        "detectable",
    ]
    return markdown(head, body)


def _detectable(found: Mapping[str, Any]) -> str:
    at, low, high = found["at"], found["low"], found["high"]
    if isinstance(at, Mapping):
        return "not reached"
    return f"{at:.3f} [{_times(low)}, {_times(high)}]"


def versions(results: Mapping[str, Any]) -> str:
    """What ran, where and when."""
    body = [
        [t, which, part["date"], part["bed"], _code(part), ", ".join(f"{k} {v}" for k, v in part["versions"].items())]
        for t, which, part in parts(results)
    ]
    return markdown(["type", "claims", "date", "planted in", "judged by code", "with"], body)


def _code(part: Mapping[str, Any]) -> str:
    """The hash of what judged, and of final claims whether it is the one that development claims froze."""
    found = part.get("judged_by", {})
    same = {True: ", as frozen", False: ", changed since it was frozen"}.get(found.get("as_frozen"), "")
    return f"{found['code'][:8]}{same}" if found else "not recorded"


TABLES = {
    "headlines": headlines,
    "kinds": kinds,
    "grades": grades,
    "gates": gates,
    "choosing": choosing,
    "margins": margins,
    "rivals": rivals,
    "rivals_by_kind": rivals_by_kind,
    "curves": curves,
    "weak": weak,
    "methods": methods,
    "versions": versions,
}
