"""The sections of a case page: what was said, what brought it about, its cause, its way, its repair, what is open."""

from __future__ import annotations

from collections.abc import Sequence

from veriscope.cases.case import Case
from veriscope.cases.causes import Finding
from veriscope.cases.cruxes import Foretold
from veriscope.cases.exam import right
from veriscope.cases.repair import ORDER, Repair
from veriscope.cases.side_effects import SideEffects
from veriscope.errors import NotRun
from veriscope.report import case_drawing as drawing
from veriscope.report.case_words import (
    cause_in_words,
    confusion,
    exam_rows,
    examined_as,
    listed,
    nats,
    outdated,
    rate_in_words,
    shortened,
    strongest,
    unit_words,
    untested,
)
from veriscope.report.markup import Html, el, given
from veriscope.report.page import icon
from veriscope.report.text import amount, number

MOST_PAIRS = 6


def log(case: Case) -> Html:
    return el("section", el("h2", "The conversation"), drawing.conversation(case), id="log")


def outside(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "What in the conversation brought it about")]
    if not case.outside.effects:
        parts.append(el("p", "Nothing stands before the strange words that could be taken out."))
        return el("section", parts, id="outside")
    parts += [drawing.effects(case), _shares(case), _pairs(case), _said(case)]
    return el("section", parts, id="outside")


def _shares(case: Case) -> Html:
    found = case.shapley
    if isinstance(found, NotRun):
        return el("p", "Contributions (Shapley values) were not computed: ", given(found.reason), ".", class_="soft")
    how = "exact" if found.how == "exact" else f"from {found.orders} pairs of drawn orders"
    text = (
        f"Contributions are Shapley values, {how}: what each sentence adds, whatever else is there. Together they make "
        f"{nats(found.total)} nats.{f' {found.note}.' if found.note else ''}"
    )
    return el("p", text, class_="soft")


def _pairs(case: Case) -> Html | None:
    rows: list[Html] = []
    for pair in case.outside.pairs:
        beyond = case.outside.interaction(pair)
        if pair.above_floor is True and isinstance(beyond, float) and len(rows) < MOST_PAIRS:
            cells = [pair.units[0], pair.units[1], nats(pair.nats), nats(beyond)]
            rows.append(el("tr", [el("td", cell) for cell in cells]))
    if not rows:
        return None
    head = el("tr", [el("th", word, scope="col") for word in ("taken out", "and", "nats", "beyond their sum")])
    caption = el("caption", "Pairs above the floor: below 0 in the last column, either alone keeps the words up.")
    table = el("table", caption, el("thead", head), el("tbody", rows), class_="plain")
    return el("details", el("summary", "Two at a time"), table)


def _said(case: Case) -> Html | None:
    if not case.outside.continuations:
        return None
    rows = []
    for one in case.outside.continuations:
        name = f"without {', '.join(one.units)}" if one.units else "as it is"
        drawn = [el("span", given(shortened(text, 90)), class_="under") for text in dict.fromkeys(one.sampled)]
        cells = [el("td", given(shortened(one.greedy, 120))), el("td", drawn)]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    head = el("tr", [el("th", word, scope="col") for word in ("the log", "most likely", "drawn at temperature 1")])
    return el(
        "div", el("h3", "What it says instead"), el("table", el("thead", head), el("tbody", rows), class_="stack")
    )


def flow(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "How it travelled through the network")]
    found = case.flow
    if isinstance(found, NotRun):
        return el("section", parts, el("p", "Not measured: ", given(found.reason), "."), id="flow")
    parts.append(drawing.lanes(case, found))
    best = strongest(case)
    if best is not None and best.units[0] in found.units:
        parts.append(drawing.maps(case, found, best.units[0]))
    if found.heads:
        each = [
            f"block {h.block} head {h.head} by {h.unit}, {number(h.times, 0 if h.times >= 10 else 1)} times"
            for h in found.heads
        ]
        text = "Heads moved furthest where the strange words are said, in multiples of irrelevant edits: "
        parts.append(el("p", f"{text}{'; '.join(each)}."))
    if found.patches:
        parts.append(_patches(case))
    return el("section", parts, id="flow")


def _patches(case: Case) -> Html:
    assert not isinstance(case.flow, NotRun)
    rows = []
    for one in case.flow.patches:
        share = "within the floor" if isinstance(one.share, NotRun) else number(one.share, 2)
        word = case.transcript.text[slice(*case.transcript.chars[one.best_token])].strip()
        best = [f"{nats(one.best_token_nats)}, “", given(word), "”"]
        cells = [one.where.replace("the unit", one.unit), f"{one.block}", nats(one.nats), share, best]
        rows.append(el("tr", [el("td", cell) for cell in cells]))
    words = ("stretch", "behind block", "nats", "share of the effect", "best single token, nats")
    head = el("tr", [el("th", word, scope="col") for word in words])
    unit = case.flow.patches[0].unit
    caption = (
        f"The run with {unit} replaced by neutral words of as many tokens, put into the run as it is at one block and "
        "one stretch of tokens: where a patch makes the whole change, the effect passes through there."
    )
    table = el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_="plain")
    return el("details", el("summary", "Stretches of tokens that carry it, beside the best single token"), table)


def cruxes(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "Cruxes: the smallest changes that flip the answer")]
    found = case.cruxes
    if isinstance(found, NotRun):
        return el("section", parts, el("p", "Not searched: ", given(found.reason), "."), id="cruxes")
    if not found.found:
        parts.append(el("p", "No set of units that was tried flips the answer."))
        return el("section", parts, id="cruxes")
    tries = f"Of {found.floor[1]} irrelevant edits {found.floor[0]} flip it too." if found.floor[1] else ""
    parts.append(el("p", f"A flip: {found.flips}. {tries}"))
    tested = [one for one in found.found if isinstance(one.test, Foretold)]
    rows = [_foretold(case, one.units, "the search", one.test, one.nats) for one in tested]
    for who, test in found.rivals:
        rows.append(_foretold(case, test.units if isinstance(test, Foretold) else (), RIVALS.get(who, who), test, None))
    words = (
        "units",
        "named by",
        "taken out, nats",
        "flips where all are changed",
        "stays where not",
        "right [interval]",
    )
    head = el("tr", [el("th", word, scope="col") for word in words])
    caption = (
        "Each set on inputs generated for the test, which the search did not see: “right” is the mean of the two "
        "shares, 0.5 for a rule that knows nothing."
    )
    parts.append(el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_="stack"))
    others = "; ".join(" + ".join(one.units) for one in found.found if one not in tested)
    if others:
        parts.append(el("p", f"Found to flip it too, but not tested on new inputs: {others}.", class_="soft"))
    return el("section", parts, id="cruxes")


RIVALS = {"random": "chance", "saliency": "gradient times input", "asked": "asking the model"}


def _foretold(case: Case, units: Sequence[str], who: str, test: Foretold | NotRun, change: float | None) -> Html:
    first = [el("td", who), el("td", nats(change) if change is not None else "", data_label="nats")]
    if isinstance(test, NotRun):
        cells = [el("td", "not tested: ", given(test.reason), colspan=3, class_="soft")]
    else:
        right = test.accuracy
        score = (
            "not known"
            if isinstance(right, NotRun)
            else f"{number(right, 2)} [{number(test.low, 2)},\u00a0{number(test.high, 2)}]"
        )
        shares = [f"{k} of {n}" if n else "none of these" for k, n in (test.flipped, test.kept)]
        cells = [el("td", shares[0], data_label="flips"), el("td", shares[1], data_label="stays"), el("td", score)]
    words = [
        el("span", given(unit_words(case.outside.unit(name), 48)), class_="under")
        for name in units if any(unit.name == name for unit in case.outside.units)
    ]  # fmt: skip
    return el("tr", el("th", given(" + ".join(units) or "–"), words, scope="row"), first, cells)


def open_questions(case: Case) -> Html:
    items = untested(case)
    return el("section", el("h2", "Not tested"), el("ul", [el("li", given(text)) for text in items]), id="untested")


# ---- the cause list


def causes(case: Case) -> Html:
    """Every cause of the list: whether it holds, what its test measured beside its control, and in which words."""
    parts: list[Html | None] = [el("h2", "Which cause of the list it is")]
    found = case.diagnosis
    ranked = sorted(found.findings, key=lambda one: found.causes.index(one.cause) if one.cause in found.causes else 99)
    holding = [one for one in ranked if one.holds is True]
    if holding:
        parts.append(_cause_table(case, holding))
    else:
        tested = any(not isinstance(one.holds, NotRun) for one in ranked)
        parts.append(el("p", "None of them holds." if tested else "None of them was tested."))
    parts += [el("p", given(note), class_="soft") for note in found.notes]
    rest = [one for one in ranked if one.holds is not True]
    if rest:
        title = f"The {len(rest)} that do not hold or could not be tested"
        parts.append(el("details", el("summary", title), _cause_table(case, rest)))
    return el("section", parts, id="causes")


def _entry(case: Case, one: Finding) -> Html | None:
    """What the list says of a cause that holds: the test, what it can't find, how often it was right."""
    entry = listed().get(one.cause)
    if entry is None or one.holds is not True:
        return None
    pairs = (("what it is", entry.words), ("its test", entry.test), ("its control", entry.control),
             ("can't find", entry.blind))  # fmt: skip
    rows = [[el("dt", key), el("dd", given(value))] for key, value in pairs]
    return el(
        "details", el("summary", "This entry of the list"), el("dl", rows), el("p", rate_in_words(case, one.cause))
    )


ICONS = {"named": "good", "open": "open"}


def _cause_table(case: Case, found: Sequence[Finding]) -> Html:
    rows = []
    for one in found:
        if isinstance(one.holds, NotRun):
            tone, word, measured = "open", "not tested", el("td", given(one.holds.reason), colspan=2)
        else:
            tone, word = ("named", "holds") if one.holds else ("mute", "does not hold")
            said = el("ul", [el("li", given(text)) for text in one.evidence])
            measured = Html(el("td", _score(one), data_label="measured") + el("td", said, _entry(case, one)))
        outcome = el("td", el("span", icon(ICONS[tone]) if tone in ICONS else None, word, class_="word"))
        rows.append(el("tr", el("th", cause_in_words(one.cause), scope="row"), outcome, measured, class_=tone))
    widths = {"cause": 18, "outcome": 14, "test against its control": 18, "evidence": 50}
    head = el("tr", [el("th", h, scope="col", style=f"width:{w}%") for h, w in widths.items()])
    return el("table", el("thead", head), el("tbody", rows), class_="fixed stack causes")


def _score(one: Finding) -> str:
    bounds = f" [{number(one.low, 2)},\u00a0{number(one.high, 2)}]" if one.low < one.high else ""
    if isinstance(one.floor, NotRun):
        return "" if one.score == one.low == one.high == 0 else f"{number(one.score, 2)}{bounds}"
    return f"{number(one.score, 2)}{bounds} against {number(one.floor, 2)}"


# ---- how often it is wrong


PLANTED = {"unlisted": "damage that no entry names", "clean": "nothing wrong"}


def rates(case: Case) -> Html:
    """What the cause list did on incidents whose cause was planted, beside two rivals."""
    parts: list[Html | None] = [el("h2", "How often such an answer is wrong")]
    rows, me = exam_rows(), examined_as(case)
    if not rows:
        command = el("code", "veriscope exam --only cases")
        parts.append(el("p", "Not measured: this version holds no result of ", command, "."))
        return el("section", parts, id="rates")
    if outdated():
        parts.append(el("p", outdated()))
    rivals = sorted({row["who"] for row in rows if not row["who"].startswith("veriscope")})
    lines = []
    for row in (row for row in rows if row["who"] == me):
        beside = {other["who"]: other for other in rows if other["cause"] == row["cause"]}
        share = f"{right(row)} of {row['n']} [{number(row['low'], 2)},\u00a0{number(row['high'], 2)}]"
        cells = [share, str(row["listed"]), str(row["unknown"]), str(row["wrong"])]
        cells += [f"{right(beside[who])} of {beside[who]['n']}" if who in beside else "–" for who in rivals]
        planted = PLANTED.get(row["cause"]) or cause_in_words(row["cause"])
        lines.append(el("tr", el("th", planted, scope="row"), [el("td", cell) for cell in cells]))
    names = (
        "planted",
        "right",
        "among those named",
        "“unknown”",
        "named wrongly",
        *(f"{who}: right" for who in rivals),
    )
    head = el("tr", [el("th", name, scope="col") for name in names])
    told = "and told what was expected, as here" if case.expected else "and told nothing else, as here"
    caption = el(
        "caption",
        f"Planted incidents, each answered by a model of town, worked with the words marked {told}. Right is naming "
        "the planted cause first; “unknown” for damage that no entry names; naming none where nothing is wrong. Last, "
        "how many rivals that never ask the model got right.",
    )
    table = el("table", caption, el("thead", head), el("tbody", lines), class_="plain rates")
    parts += [el("div", table, class_="scroll"), _confusion(case)]
    return el("section", parts, id="rates")


def _confusion(case: Case) -> Html | None:
    """Planted cause by what was named first."""
    counts = confusion(case)
    if not counts:
        return None
    named = dict.fromkeys(name for row in counts.values() for name in row)
    columns = [*(name for name in counts if name in named), *(name for name in named if name not in counts)]
    rows = []
    for cause, row in counts.items():
        total = max(1, sum(row.values()))
        cells = [
            el("td", str(row.get(name) or ""), style=f"--w:{row.get(name, 0) / total:.2f}")
            for name in columns
        ]  # fmt: skip
        rows.append(el("tr", el("th", cause.replace("_", " "), scope="row"), cells))
    heads = [el("th", el("span", name.replace("_", " ")), scope="col", class_="tilt") for name in columns]
    caption = el("caption", "Planted (rows) by what was named first (columns).")
    table = el("table", caption, el("thead", el("tr", el("th"), heads)), el("tbody", rows))
    return el("details", el("summary", "The whole confusion matrix"), el("div", table, class_="map scroll"))


# ---- repairs

REPAIR_TONE = {"repaired": "good", "failed": "bad", "wrong": "bad", "hides": "bad", "harms": "bad"}


def repairs(case: Case) -> Html:
    """Each repair before and after, its side effects, and the best prompt edit beside it."""
    parts: list[Html | None] = [el("h2", "What repairs it")]
    found = case.repairs
    if isinstance(found, NotRun):
        return el("section", parts, el("p", "Not tried: ", given(found.reason), "."), id="repairs")
    before = found[0].before
    parts.append(
        el("p", "Before: it says “", given(before.says.strip()), f"”; the strange words have {nats(before.nats)} nats.")
    )
    edits = [None if isinstance(one.best_prompt_edit, NotRun) else one.best_prompt_edit.what for one in found]
    rows = [_repair(one, edits[n] is not None and edits[n] in edits[n - 1 : n]) for n, one in enumerate(found)]
    widths = {"repair": 30, "says afterwards": 16, "side effects on held-out logs": 27, "best prompt edit": 27}
    head = el("tr", [el("th", h, scope="col", style=f"width:{w}%") for h, w in widths.items()])
    caption = el(
        "caption",
        "Each was really tried; nothing is changed for good. The prompt edit is the best of a plain search that might "
        "cost as much as the repair and what led to it.",
    )
    parts.append(el("table", caption, el("thead", head), el("tbody", rows), class_="fixed stack repairs"))
    there = {one.verdict for one in found}
    there |= {one.best_prompt_edit.verdict for one in found if not isinstance(one.best_prompt_edit, NotRun)}
    words = [[el("dt", word), el("dd", VERDICTS[word])] for word in ORDER if word in there]
    parts.append(el("details", el("summary", "What these words mean"), el("dl", words)))
    return el("section", parts, id="repairs")


VERDICTS = {
    "repaired": "the strange answer is gone and the right one given, here and in most texts near this one; a random "
    "change of the same size does not do it; side effects are shown to be small",
    "unproven": "the strange answer is gone, but one of these could not be shown",
    "harms": "the strange answer is gone, with side effects shown to be large",
    "wrong": "another wrong answer is given",
    "hides": "nothing sensible is said instead",
    "failed": "the strange answer is still there",
    "not run": "it could not be tried",
}


def _repair(one: Repair, again: bool) -> Html:
    tone = REPAIR_TONE.get(one.verdict, "open")
    verdict = el("span", icon(tone), one.verdict, class_="word")
    name = [
        el("span", given(one.what), class_="name"),
        el("span", f"{cause_in_words(one.cause)}; {one.how}", class_="under"),
    ]
    rival = one.best_prompt_edit
    cells = [
        el("td", _after(one), data_label="says afterwards"),
        el("td", _side_effects(one.side_effects), data_label="side effects"),
    ]
    if isinstance(rival, NotRun):
        cells.append(el("td", "none: ", given(rival.reason), class_="soft"))
    elif rival.what == one.what:
        cells.append(el("td", "this one", data_label="best prompt edit", class_="soft"))
    elif again:
        cells.append(el("td", "as above", data_label="best prompt edit", class_="soft"))
    else:
        tried = el("span", f"of {rival.tried} tried", class_="under")
        cells.append(el("td", given(rival.what), ": ", el("b", rival.verdict), tried, data_label="best prompt edit"))
    first = el("tr", el("th", verdict, name, scope="row"), cells, class_=f"{tone} joined")
    return Html(
        first + el("tr", el("td", given(" ".join([one.sentence, *one.notes])), colspan=4, class_="soft"), class_=tone)
    )


def _after(one: Repair) -> list[Html]:
    """What is said with the repair: here, in texts near this one, and with a random change of its kind instead."""
    after = one.after
    if isinstance(after, NotRun):
        return [el("span", "not run", class_="soft")]
    right = "" if isinstance(after.right, NotRun) else ", as expected" if after.right else ", not as expected"
    under = [f"strange words {nats(after.nats)} nats"]
    if not isinstance(one.elsewhere, NotRun):
        under.append(f"mended in {one.elsewhere.hits} of {one.elsewhere.n} texts near it")
    if not isinstance(one.control, NotRun):
        under.append(f"a random change of its kind {'does it too' if one.control.gone(one.before) else 'does not'}")
    said = el("span", "“", given(shortened(after.says.strip(), 40)), f"”{right}")
    return [said, *(el("span", text, class_="under") for text in under)]


def _side_effects(found: SideEffects | NotRun) -> Html:
    if isinstance(found, NotRun):
        return el("span", given(found.reason), class_="soft")
    changed = found.changed
    share = f"{changed.hits} of {changed.n} answers changed"
    if changed.hits == 0 and found.neutral.value == found.kl.value == 0:
        cost = "nothing in them is read differently"
    else:
        moved = f"what comes next moves by {number(found.kl.value, 3)} nats (KL)"
        cost = f"{amount(found.neutral, 'nats')} a token of their text; {moved}"
    return el("span", share, el("span", cost, class_="under"))
