"""Pictures of a case: the log with its causes marked in it, bars of effects, and the way through the network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from veriscope.cases.case import Case
from veriscope.cases.outside import Effect
from veriscope.cases.travel import ANSWER, Travel
from veriscope.cases.units import PARTS, Unit
from veriscope.errors import NotRun
from veriscope.report.case_words import SEEN, closing, named_units, nats, shortened, unit_names, unit_words
from veriscope.report.figures import Axis, interval, plot, scale, upright
from veriscope.report.markup import Html, el, given
from veriscope.report.text import decimals_for, number
from veriscope.trials.evidence import Estimate

MOST_LANES = 24
LEAST_ROWS, LEAST_FOLDED = 6, 3  # rows of effects that are always shown; fewer than that are not folded away
LANE_REM = 2.1  # height of a lane, as in case.css
PART_WORDS = {"resid_post": "residual stream", "attn_out": "attention", "mlp_out": "MLP"}


def way(one: Effect | None) -> str:
    """How an effect is coloured: "brings" the strange span about, "holds" it back, or stays "within" the floor."""
    if one is None or one.above_floor is not True:
        return "within"
    return "brings" if one.nats < 0 else "holds"


# ---- the log


def conversation(case: Case) -> Html:
    """Every turn, the strange span marked, and each sentence shaded by what taking it out does."""
    removals = {one.units[0]: one for one in case.outside.effects if one.how == "removal"}
    most = max((abs(one.nats) for one in removals.values() if one.above_floor is True), default=1.0)
    turns = [_turn(case, number, removals, most) for number in range(len(case.log.turns))]
    blamed = named_units(case)
    key = [
        el("li", el("i", class_="brings"), "brings the strange words about: taken out, they are less likely"),
        el("li", el("i", class_="holds"), "holds them back"),
        el("li", "not shaded: does no more than irrelevant edits of its size"),
        el("li", "underlined, or with the name of a cause: that cause rests on it") if blamed else None,
        el("li", "small figures: change of the log-probability in nats; −2.3 is ten times less likely"),
    ]
    return el("div", el("div", turns, class_="turns"), el("ul", key, class_="key"))


def _turn(case: Case, number: int, removals: Mapping[str, Effect], most: float) -> Html:
    seen, turn = case.transcript, case.log.turns[number]
    chars = seen.turns[number] if number < len(seen.turns) else None
    if chars is None:
        gone = "cut: it did not fit into the context" if number < seen.strange.turn else "said afterwards"
        who = [given(turn.role), el("span", gone, class_="under")]
        return el("div", el("div", who, class_="who"), el("div", given(turn.text), class_="said"), class_="turn gone")
    start, stop = chars
    cut = len(turn.text.strip()) - (stop - start) if number != seen.strange.turn else 0
    words = _marked(case, start, min(stop, seen.span[0]), removals, most)
    if number == seen.strange.turn:
        words.append(el("mark", given(case.strange), class_="strange"))
        words.append(el("span", given(turn.text[seen.strange.end :]), class_="after"))
    under = el("span", f"first {cut} characters cut", class_="under") if cut > 0 else None
    return el("div", el("div", given(turn.role), under, class_="who"), el("div", words, class_="said"), class_="turn")


def _marked(case: Case, start: int, stop: int, removals: Mapping[str, Effect], most: float) -> list[Html]:
    """The words of one turn with its sentences marked."""
    out, at, text, blamed = [], start, case.transcript.text, named_units(case)
    for unit in case.outside.units:
        a, b = unit.spans[0]
        if unit.kind not in PARTS or a < at or b > stop:
            continue
        out += [given(text[at:a]), _unit(unit, removals.get(unit.name), most, blamed)]
        at = b
    return [*out, given(text[at:stop])]


def _unit(unit: Unit, one: Effect | None, most: float, blamed: Mapping[str, list[str]]) -> Html:
    kind = way(one)
    words = [name for name in blamed if name != unit.name and name in unit.text.split()]
    text = _underlined(unit.text, words)
    named = "".join(f" · {cause.replace('_', ' ')}" for cause in blamed.get(unit.name, ()))
    if one is None or (kind == "within" and not named):
        return el("span", text, class_="unit", title=unit.name)
    tag = el("span", f"{unit.name} {nats(one.nats)}{named}", class_="tag")
    share = min(1.0, abs(one.nats) / most)
    return el("span", tag, text, class_=f"unit {kind}", style=f"--w:{share:.2f}")


def _underlined(text: str, words: Sequence[str]) -> list[Html]:
    """A sentence with the words that a cause rests on underlined."""
    if not words:
        return [given(text)]
    pieces = re.split(r"(?<!\S)(" + "|".join(map(re.escape, words)) + r")(?!\S)", text)
    return [el("u", given(piece)) if n % 2 else given(piece) for n, piece in enumerate(pieces)]


# ---- effects


def effects(case: Case) -> Html:
    """Each unit's removal with its interval beside the floor, its substitution, and its contribution."""
    removals = [one for one in case.outside.effects if one.how == "removal"]
    measured = [v for one in removals for v in (one.low, one.nats, one.high)]
    axis = Axis.over(measured or [0.0])
    shown = [one for n, one in enumerate(removals) if n < LEAST_ROWS or one.above_floor is True]
    rest = [one for one in removals[LEAST_ROWS:] if one.above_floor is not True]
    if len(rest) < LEAST_FOLDED:
        shown, rest = removals, []
    caption = (
        "Change in the log-probability of the strange words when a unit is taken out, in nats. The grey band is the "
        "floor: what 19 of 20 irrelevant edits of that size stay within; the interval is the change less what such "
        f"edits do. Names: {unit_names(case)}."
    )
    parts = [_effect_table(case, shown, axis, el("caption", caption))]
    if rest:
        title = f"The {len(rest)} others, none shown to do more than irrelevant edits"
        parts.append(el("details", el("summary", title), _effect_table(case, rest, axis, None)))
    return el("div", parts, data_figure="effects")


def _effect_table(case: Case, removals: Sequence[Effect], axis: Axis, caption: Html | None) -> Html:
    shares = {} if isinstance(case.shapley, NotRun) else {one.unit: one for one in case.shapley.shares}
    head = [
        el("th", "taken out", scope="col", style="width:31%"),
        el("th", scale(axis, "nats"), scope="col", class_="plot"),
        el("th", "nats [interval]", scope="col", style="width:20%"),
        el("th", "floor", scope="col", style="width:8%"),
        el("th", "neutral instead", scope="col", style="width:9%"),
        el("th", "contribution", scope="col", style="width:9.5%"),
    ]
    last = closing(case)
    rows = []
    for one in removals:
        unit = case.outside.unit(one.units[0])
        instead = case.outside.effect(unit.name, "substitution")
        kind = "the words right before the answer" if last is not None and unit.name == last.name else unit.kind
        name = [el("span", el("b", unit.name), " ", given(unit_words(unit)), class_="name")]
        name.append(el("span", kind, class_="under"))
        share = shares.get(unit.name)
        cells = [
            el("td", _bar(one, axis), class_="plot"),
            el("td", _nats(one), data_label="nats"),
            el("td", _floor(one), data_label="floor"),
            el("td", nats(instead.nats) if isinstance(instead, Effect) else "not run", data_label="neutral instead"),
            el("td", nats(share.nats) if share is not None else "–", data_label="contribution"),
        ]
        rows.append(el("tr", el("th", name, scope="row"), cells, class_=way(one)))
    return el("table", caption, el("thead", el("tr", head)), el("tbody", rows), class_="effects fixed stack")


def _bar(one: Effect, axis: Axis) -> Html:
    shapes = [upright(axis.at(0.0), "zero")]
    if not isinstance(one.floor, NotRun):
        left, right = axis.at(-one.floor), axis.at(one.floor)
        shapes.insert(
            0, el("rect", x=f"{left:.2f}%", y="0", width=f"{right - left:.2f}%", height="100%", class_="floor")
        )
    shapes.append(interval(axis, Estimate(one.nats, one.low, one.high, 1, 1), "claim"))
    return plot(f"{' '.join(one.units)}: {number(one.nats)} nats", shapes)


def _nats(one: Effect) -> str:
    if one.low == one.high:
        return nats(one.nats)
    d = min(1 if abs(one.nats) >= 10 else 2, max(1, decimals_for(one.high - one.low)))
    if number(one.low, d) == number(one.high, d):
        return nats(one.nats)
    return f"{number(one.nats, d)} [{number(one.low, d)},\u00a0{number(one.high, d)}]"


def _floor(one: Effect) -> str:
    return "none" if isinstance(one.floor, NotRun) else f"±{nats(one.floor)}" if one.floor >= SEEN else "under 0.01"


# ---- the way through the network


def lanes(case: Case, found: Travel) -> Html:
    """From sentence through the blocks to the answer: a ribbon is as wide as the answer's state is moved."""
    removals = {one.units[0]: one for one in case.outside.effects if one.how == "removal"}
    parts = [unit for unit in case.outside.units if unit.kind in PARTS and unit.name in found.units]
    shown = parts
    if len(parts) > MOST_LANES:
        best = sorted(parts, key=lambda unit: -abs(removals[unit.name].nats))[:MOST_LANES]
        shown = [unit for unit in parts if unit in best]
    n_blocks = len(found.at_answer(shown[0].name))
    times = {unit.name: [value or 0.0 for value in found.at_answer(unit.name)] for unit in shown}
    most = max([2.0, *(value for some in times.values() for value in some)])
    xs = [(block + 1) / (n_blocks + 2) * 100 for block in range(n_blocks)]
    rows_all = f"grid-row: 2 / {len(shown) + 2}"
    shapes = [
        el("line", x1=f"{x:.2f}", x2=f"{x:.2f}", y1="0", y2=str(100 * len(shown)), class_="blockline") for x in xs
    ]
    for row, unit in enumerate(shown):
        shapes += _ribbon(times[unit.name], most, xs, row, len(shown), removals[unit.name])
    picture = el(
        "svg", el("title", "from sentence through the blocks to the answer"), shapes, role="img",
        viewBox=f"0 0 100 {100 * len(shown)}", preserveAspectRatio="none",
        style=f"{rows_all}; height: {LANE_REM * len(shown):.1f}rem",
    )  # fmt: skip
    step = math.ceil(n_blocks / 12)
    marks = [el("span", str(b), style=f"left:{xs[b]:.2f}%") for b in range(0, n_blocks, step)]
    names = [
        el("div", el("b", unit.name), given(shortened(unit.text, 200)), class_="lane", style=f"grid-row:{row + 2}")
        for row, unit in enumerate(shown)
    ]
    out = el("div", given(shortened(case.strange, 60)), class_="out", style=rows_all)
    heads = [el("div", "block", class_="head first"), el("div", marks, class_="head"), el("div", class_="head")]
    hidden = f" Of {len(parts)} sentences the {len(shown)} strongest are drawn." if len(shown) < len(parts) else ""
    caption = (
        "From each sentence through the blocks to the strange words. A ribbon is as wide as taking the sentence out "
        "moves the residual stream where those words are said, in multiples of what 19 of 20 irrelevant edits stay "
        f"within; a grey thread is no more than that. The widest is {number(most, 1)} times.{hidden}"
    )
    key = [
        el("li", el("i", class_="brings"), "brings the strange words about"),
        el("li", el("i", class_="holds"), "holds them back"),
        el("li", el("i", class_="moves"), "moves the state, not the words"),
        el("li", el("i", class_="within"), "no more than irrelevant edits"),
    ]
    return el(
        "figure", el("figcaption", caption), el("div", heads, names, picture, out, class_="lanes"),
        el("ul", key, class_="key"), data_figure="flow",
    )  # fmt: skip


def _ribbon(times: Sequence[float], most: float, xs: Sequence[float], row: int, rows: int, one: Effect) -> list[Html]:
    """Pieces of one lane: from block to block, and from the last one to the answer."""
    middle, goal = 100 * row + 50, 50 * rows + (row - (rows - 1) / 2) * 12
    half = [_half(value, most) for value in times]
    out = []
    kind = way(one) if way(one) != "within" else "moves"
    points = [(0.0, half[0]), *zip(xs, half, strict=True)]
    values = [times[0], *times]
    for n in range(1, len(points)):
        (x0, h0), (x1, h1) = points[n - 1], points[n]
        css = kind if values[n] > 1 else "within"
        top, back = f"M{x0:.2f} {middle - h0:.1f}L{x1:.2f} {middle - h1:.1f}", f"V{middle + h1:.1f}"
        out.append(el("path", class_=f"ribbon {css}", d=f"{top}{back}L{x0:.2f} {middle + h0:.1f}Z"))
    x0, h0, h1 = xs[-1], half[-1], 5.0 if one.above_floor is True else 1.5
    bend = (100 + x0) / 2
    top = f"M{x0:.2f} {middle - h0:.1f}C{bend:.2f} {middle - h0:.1f} {bend:.2f} {goal - h1:.1f} 100 {goal - h1:.1f}"
    back = f"V{goal + h1:.1f}C{bend:.2f} {goal + h1:.1f} {bend:.2f} {middle + h0:.1f} {x0:.2f} {middle + h0:.1f}Z"
    out.append(el("path", d=top + back, class_=f"ribbon {way(one)}"))
    return out


def _half(value: float, most: float) -> float:
    """Half the width of a ribbon, in hundredths of a lane."""
    return 2.0 if value <= 1 else 4.0 + 36.0 * math.log(value) / math.log(most)


def maps(case: Case, found: Travel, unit: str) -> Html:
    """Where one unit's removal moves what the network holds: block by stretch of the log."""
    number_of = found.units.index(unit)
    own = next((n for n, name in enumerate(found.stretches) if name == unit), 0)
    columns = [n for n, name in enumerate(found.stretches) if n > own or name == ANSWER]
    tables = []
    for p, part in enumerate(found.parts):
        blocks = found.times[number_of][p]
        rows = [
            el("tr", el("th", str(b), scope="row"), [_cell(blocks[b][n]) for n in columns])
            for b in reversed(range(len(blocks)))
        ]
        head = el("tr", el("th"), [el("th", found.stretches[n], scope="col") for n in columns])
        caption = el("caption", PART_WORDS.get(part, part))
        tables.append(el("div", el("table", caption, el("tbody", rows), el("tfoot", head)), class_="map scroll"))
    text = (
        f"What taking {unit} out moves, block (upwards) by what stands behind it, in multiples of what irrelevant "
        f"edits stay within; “{ANSWER}” is where the strange words are said. Blank where it is not measured."
    )
    return el("figure", el("figcaption", text), el("div", tables, class_="maps"), data_figure="map")


def _cell(value: float | None) -> Html:
    if value is None:
        return el("td", class_="none")
    weight = 0.0 if value <= 1 else min(1.0, 0.15 + math.log10(value) * 0.6)
    words = number(value, 0 if value >= 10 else 1)
    return el("td", words, style=f"--w:{weight:.2f}")
