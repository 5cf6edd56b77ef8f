"""Figures as inline SVG in HTML tables: text stays text, and a figure narrows with its page.

Positions are percentages of the plot's width, so nothing is scaled or distorted. No figure is drawn for a
score whose control was not measured: then the page says so and prints the number alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from veriscope.errors import NotRun
from veriscope.report.markup import Html, el, given
from veriscope.report.text import amount, decimals_for, number
from veriscope.trials.evidence import Estimate, GateResult, Spread, Verdict

Kind = Literal["claim", "control", "rival"]
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # of Spread.quantiles, in per cent
BOUNDS = "Bars are one-sided 95% bounds, together a 90% interval, resampled by cluster."

# Keys of GateResult.series that hold the horizontal axis; every other key of the same length is a curve.
AXES = ("dose", "training items", "items", "budget", "steps", "size", "share", "layer", "n", "x")


@dataclass(frozen=True)
class Axis:
    """A number line: `low`..`high` in the unit of what is drawn."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], *, zero: bool = True) -> Axis:
        """The shortest axis with a little air that holds every value, and zero."""
        finite = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):  # as good as one value: no room to draw a difference in
            low, high = low - 0.5, high + 0.5
        air = (high - low) * 0.06
        return cls(low - air, high + air)

    def at(self, value: float) -> float:
        """Where a value lies, in per cent from the left, held inside the plot."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis: steps of 1, 2 or 5 times a power of ten."""
        step = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(step))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= step * 0.999)
        first = math.ceil(self.low / step)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Mark:
    """One line of a forest plot."""

    name: str
    estimate: Estimate | NotRun
    kind: Kind
    where: str = ""  # the gate that measured it
    note: str = ""
    strongest: bool = False


@dataclass(frozen=True)
class Block:
    """One score of the claim with everything it was compared with, in one unit and on one axis."""

    unit: str
    title: str  # the gates that scored it
    side: bool  # a diagnostic's or falsifier's own score, not the claim's case
    marks: tuple[Mark, ...]
    bar: float | None = None  # what the claim's score must be beyond: strongest control and margin
    bar_words: str = ""

    @property
    def drawn(self) -> bool:
        """Whether the claim's score and at least one control or rival were measured."""
        kinds = {"claim" if m.kind == "claim" else "other" for m in self.marks if isinstance(m.estimate, Estimate)}
        return kinds == {"claim", "other"}


def blocks(verdict: Verdict) -> list[Block]:
    """Sort a verdict's gates into forest plots: gates that measured the same score share one."""
    together: dict[tuple[str, bool, Estimate | NotRun], list[GateResult]] = {}
    for gate in verdict.gates:
        if gate.controls:
            score = gate.estimate if _side(gate) and isinstance(gate.raw, NotRun) else gate.raw
            together.setdefault((gate.unit, _side(gate), score), []).append(gate)
    return [_block(verdict, unit, side, score, gates) for (unit, side, score), gates in together.items()]


def _side(gate: GateResult) -> bool:
    """Whether a gate stands beside the case (diagnostic, falsifier, instrument) instead of carrying it."""
    return gate.role not in ("gate", "rival")


def _block(verdict: Verdict, unit: str, side: bool, score: Estimate | NotRun, gates: list[GateResult]) -> Block:
    marks: list[Mark] = []
    for gate in gates:
        kind: Kind = "rival" if gate.role == "rival" else "control"
        marks += [Mark(c.name, c.estimate, kind, f"{gate.gate} {gate.title}", c.note) for c in gate.controls]
    bar_gate = _hardest(gates)
    strongest = bar_gate.strongest if bar_gate else ""
    marks = [
        Mark(m.name, m.estimate, m.kind, m.where, m.note, m.kind == "control" and m.name == strongest) for m in marks
    ]
    marks.sort(key=lambda m: (m.kind == "rival", not m.strongest, -_value(m.estimate)))
    bar, words = _bar(bar_gate)
    title = f"{gates[0].gate} {gates[0].title}" if len(gates) == 1 else ", ".join(g.gate for g in gates)
    return Block(unit, title, side, (Mark(verdict.name, score, "claim"), *marks), bar, words)


def _value(estimate: Estimate | NotRun) -> float:
    return estimate.value if isinstance(estimate, Estimate) else -math.inf


def _strongest_of(gate: GateResult) -> Estimate | NotRun:
    return next((c.estimate for c in gate.controls if c.name == gate.strongest), NotRun("not named"))


def control_beside(verdict: Verdict, gate: GateResult) -> tuple[str, Estimate] | None:
    """The control that a gate's picture must show: its own strongest, or the claim's strongest in the same unit."""
    able = [gate, *(g for g in verdict.gates if g.unit == gate.unit and not _side(g) and g.role != "rival")]
    found = [(g.strongest, e) for g in able if isinstance(e := _strongest_of(g), Estimate)]
    if found and found[0][0] == gate.strongest:
        return found[0]
    return max(found, key=lambda f: f[1].value, default=None)


def _hardest(gates: Sequence[GateResult]) -> GateResult | None:
    """The gate whose strongest control and margin together ask the most of the claim."""
    able = [g for g in gates if g.role != "rival" and g.margin is not None and _strongest_of(g)]
    return max(able, key=lambda g: _value(_strongest_of(g)) + (g.margin or 0.0), default=None)


def _bar(gate: GateResult | None) -> tuple[float | None, str]:
    """Where the score axis shows what the hardest gate asks. The gate itself tests the paired excess."""
    if gate is None or gate.margin is None:
        return None, ""
    value = _value(_strongest_of(gate))
    sign = -1 if gate.better == "lower" else 1
    words = f"{gate.strongest} {'−' if sign < 0 else '+'} margin {number(gate.margin)}"
    return value + sign * gate.margin, words


def forest(block: Block) -> Html:
    """The claim's score and every control and rival on one axis, with bounds; a table, so it reads without sight."""
    measured = [m.estimate for m in block.marks if isinstance(m.estimate, Estimate)]
    values = [v for e in measured for v in (e.low, e.value, e.high)]
    axis = Axis.over([*values, *([] if block.bar is None else [block.bar])])
    rows = [_forest_row(mark, axis, block) for mark in block.marks]
    head = el(
        "tr",
        el("th", "scored", scope="col"),
        el("th", scale(axis, block.unit), scope="col", class_="plot"),
        el("th", f"{block.unit} [95% bounds]", scope="col", class_="num"),
    )
    asks = f" The dashed line is what the claim must be beyond: {block.bar_words}." if block.bar is not None else ""
    what = "The claim beside every control and rival that was scored like it"
    what = "Beside what it is compared with" if block.side else what
    caption = el("caption", f"{what} ({block.title}). {BOUNDS}{asks}")
    return el("table", caption, el("thead", head), el("tbody", rows), class_="forest", data_figure="forest")


def _forest_row(mark: Mark, axis: Axis, block: Block) -> Html:
    role = {"claim": "the claim", "control": "for comparison" if block.side else "control", "rival": "rival"}[mark.kind]
    role = "strongest control" if mark.strongest else role
    where = "" if block.side else mark.where
    under = " · ".join(t for t in (role, where, mark.note) if t)
    label = [el("span", given(mark.name), class_="name"), el("span", under, class_="under")]
    css = f"{mark.kind}{' strongest' if mark.strongest else ''}"
    if isinstance(mark.estimate, NotRun):
        cells = [el("td", class_="plot"), el("td", "not run: ", given(mark.estimate.reason), class_="num notrun")]
    else:
        picture = plot(
            f"{mark.name}: {amount(mark.estimate, block.unit)}",
            [*_rules(axis, block.bar), interval(axis, mark.estimate, mark.kind)],
        )
        cells = [
            el("td", picture, class_="plot"),
            el("td", amount(mark.estimate, beside=block.marks[0].estimate), class_="num"),
        ]
    return el("tr", el("th", label, scope="row"), cells, class_=css)


def plot(described: str, shapes: Sequence[Html], height: int = 30) -> Html:
    """One plot, as wide as its place, with a description for those who don't see it."""
    return el("svg", el("title", described), shapes, role="img", width="100%", height=height)


def _midway(shapes: Sequence[Html]) -> Html:
    """Shapes drawn around height 0, moved to the middle of their plot however high that is."""
    return el("svg", shapes, y="50%", width="100%", height="1", overflow="visible")


def scale(axis: Axis, unit: str) -> Html:
    """Tick labels above the plots."""
    labels = [
        el("text", number(t), x=f"{axis.at(t):.2f}%", y=13, class_="tick", text_anchor="middle")
        for t in axis.ticks()
        if 4 < axis.at(t) < 96
    ]
    return el("svg", labels, aria_hidden="true", width="100%", height=16)


def _rules(axis: Axis, bar: float | None) -> list[Html]:
    """The lines behind every row: ticks, zero, and the bar to clear."""
    lines = [upright(axis.at(t), "grid") for t in axis.ticks()]
    if axis.low < 0 < axis.high:
        lines.append(upright(axis.at(0.0), "zero"))
    if bar is not None:
        lines.append(upright(axis.at(bar), "bar"))
    return lines


def upright(x: float, css: str) -> Html:
    return el("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1="0", y2="100%", class_=css)


def interval(axis: Axis, estimate: Estimate, kind: Kind) -> Html:
    """A bounds bar with its point: disc for the claim, ring for a control, square for a rival."""
    low, mid, high = (axis.at(v) for v in (estimate.low, estimate.value, estimate.high))
    line = el("line", x1=f"{low:.2f}%", x2=f"{high:.2f}%", y1=0, y2=0, class_="bounds")
    ends = [el("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=-4, y2=4, class_="bounds") for x in (low, high)]
    if kind == "rival":
        point = el("rect", x=f"{mid:.2f}%", y=-5, width=10, height=10, transform="translate(-5 0)", class_="point")
    else:
        point = el("circle", cx=f"{mid:.2f}%", cy=0, r=6 if kind == "claim" else 5, class_="point")
    return _midway([line, *ends, point])


def gauge(gate: GateResult) -> Html | None:
    """One gate's tested quantity against zero and its margin, on a scale of its own."""
    if not isinstance(gate.estimate, Estimate) or gate.margin is None:
        return None
    e = gate.estimate
    margins = [-gate.margin, gate.margin] if gate.better == "within" else [gate.margin]
    axis = Axis.over([e.low, e.value, e.high, *margins])
    shapes = [upright(axis.at(0.0), "zero"), *(upright(axis.at(m), "bar") for m in margins)]
    described = f"{gate.title}: {amount(e, gate.unit)}, margin {number(gate.margin)}"
    return plot(described, [*shapes, interval(axis, e, "claim")], 24)


def distribution(verdict: Verdict, gate: GateResult) -> Html | None:
    """The spread over inputs behind a gate's mean, with the strongest control on the same axis.

    None where there is no spread, or no control was measured to stand beside it.
    """
    beside = control_beside(verdict, gate)
    if gate.spread is None or len(gate.spread.quantiles) != len(QUANTILES) or beside is None:
        return None
    s, (rival, control) = gate.spread, beside
    axis = Axis.over([*s.quantiles, s.worst_value, control.low, control.high])
    d = decimals_for(s.quantiles[5] - s.quantiles[1])
    wrong = f"{number(100 * s.wrong_sign, 0)}% of inputs go the other way"
    listed = ", ".join(f"{q}%: {number(v)}" for q, v in zip(QUANTILES, s.quantiles, strict=True))
    box = plot(
        f"Quantiles over inputs: {listed}",
        [*_rules(axis, None), _box(axis, s)],
        38,
    )
    worst = plot(
        f"Mean of the worst cluster: {number(s.worst_value)}",
        [*_rules(axis, None), _cross(axis.at(s.worst_value))],
    )
    level = plot(
        f"Mean of {rival}: {amount(control, gate.unit)}",
        [*_rules(axis, None), interval(axis, control, "control")],
    )
    rows = [
        _spread_row("claim", "each input", wrong, box, f"median {number(s.quantiles[3], d)}"),
        _spread_row("worst", "worst cluster", given(s.worst_cluster), worst, number(s.worst_value, d)),
        _spread_row("control strongest", rival, "strongest control, mean", level, amount(control)),
    ]
    head = el(
        "tr",
        el("th", "over inputs", scope="col"),
        el("th", scale(axis, gate.unit), scope="col", class_="plot"),
        el("th", gate.unit, scope="col", class_="num"),
    )
    caption = el(
        "caption",
        f"What lies behind the mean ({gate.gate} {gate.title}): thin line 1% to 99% of inputs, thick line 5% to 95%, "
        "box 25% to 75%, upright stroke the median.",
    )
    return el("table", caption, el("thead", head), el("tbody", rows), class_="forest", data_figure="distribution")


def _spread_row(css: str, name: str, under: str | Html, picture: Html, value: str) -> Html:
    label = [el("span", given(name), class_="name"), el("span", under, class_="under")]
    return el(
        "tr", el("th", label, scope="row"), el("td", picture, class_="plot"), el("td", value, class_="num"), class_=css
    )


def _box(axis: Axis, spread: Spread) -> Html:
    q1, q5, q25, q50, q75, q95, q99 = (axis.at(v) for v in spread.quantiles)
    shapes = [
        el("line", x1=f"{q1:.2f}%", x2=f"{q99:.2f}%", y1=0, y2=0, class_="whisker"),
        el("line", x1=f"{q5:.2f}%", x2=f"{q95:.2f}%", y1=0, y2=0, class_="whisker thick"),
        el("rect", x=f"{q25:.2f}%", width=f"{max(q75 - q25, 0.3):.2f}%", y=-9, height=18, class_="box"),
        el("line", x1=f"{q50:.2f}%", x2=f"{q50:.2f}%", y1=-12, y2=12, class_="median"),
    ]
    return _midway(shapes)


def _cross(x: float) -> Html:
    arm = [
        el("line", x1=-5, y1=-5, x2=5, y2=5, class_="cross"),
        el("line", x1=-5, y1=5, x2=5, y2=-5, class_="cross"),
    ]
    return el("svg", arm, x=f"{x:.2f}%", y="50%", overflow="visible", width=1, height=1)


@dataclass(frozen=True)
class Curve:
    """One line of a curve figure."""

    name: str
    values: tuple[float, ...]
    control: bool


def curves(verdict: Verdict, gate: GateResult) -> Html | None:
    """A gate's curve with its control's curve, or its controls' levels, on the same axes.

    None where there is no curve, or no control to stand beside it.
    """
    series = {k.replace("_", " "): v for k, v in gate.series.items()}
    key = next((k for k in AXES if k in series), None)
    if key is None or len(series[key]) < 2:
        return None
    xs = series[key]
    lines = [
        Curve(name, values, name.startswith(("control", "random", "shuffled", "twin", "rival")))
        for name, values in series.items()
        if name != key and len(values) == len(xs)
    ]
    mine = [c for c in lines if not c.control]
    if len(mine) == 1:
        lines = [replace(mine[0], name=f"{verdict.name} (the claim)"), *(c for c in lines if c.control)]
    beside = control_beside(verdict, gate)
    if beside is not None and not any(c.control for c in lines):
        lines.append(Curve(f"{beside[0]}, its level", (beside[1].value,) * len(xs), True))
    if {c.control for c in lines} != {True, False}:
        return None
    caption = el("figcaption", f"{gate.title} ({gate.gate}): {gate.unit} against {key}. {gate.note}")
    picture = _curve_plot(xs, lines, f"{gate.title}, {gate.unit} against {key}")
    numbers = _curve_table(key, xs, lines)
    return el("figure", caption, _legend(lines), picture, numbers, data_figure="curve", class_="curve")


def _curve_plot(xs: tuple[float, ...], lines: Sequence[Curve], described: str) -> Html:
    across = Axis.over(xs, zero=False)
    up = Axis.over([v for c in lines for v in c.values])
    ticks_up, ticks_across = up.ticks(4), across.ticks(5)
    shapes = [el("line", x1="0", x2="100%", y1=_down(up, t), y2=_down(up, t), class_="grid") for t in ticks_up]
    if up.low < 0 < up.high:
        shapes.append(el("line", x1="0", x2="100%", y1=_down(up, 0.0), y2=_down(up, 0.0), class_="zero"))
    for line in sorted(lines, key=lambda c: not c.control):
        css = "control" if line.control else "claim"
        points = " ".join(f"{across.at(x):.2f},{100 - up.at(v):.2f}" for x, v in zip(xs, line.values, strict=True))
        path = el("polyline", points=points, class_=f"path {css}", vector_effect="non-scaling-stroke")
        shapes.append(el("svg", path, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%"))
        shapes += [
            el("circle", cx=f"{across.at(x):.2f}%", cy=_down(up, v), r=4, class_=f"dot {css}")
            for x, v in zip(xs, line.values, strict=True)
        ]
    y_labels = [el("span", number(t), style=f"bottom:{up.at(t):.2f}%") for t in ticks_up]
    x_labels = [el("span", number(t), style=f"left:{across.at(t):.2f}%") for t in ticks_across]
    return el(
        "div",
        el("div", y_labels, class_="ys", aria_hidden="true"),
        plot(described, shapes, 220),
        el("div", x_labels, class_="xs", aria_hidden="true"),
        class_="axes",
    )


def _down(up: Axis, value: float) -> str:
    return f"{100 - up.at(value):.2f}%"


def _legend(lines: Sequence[Curve]) -> Html:
    items = []
    for line in lines:
        css = "control" if line.control else "claim"
        swatch = el(
            "svg",
            el("line", x1=0, x2=28, y1=6, y2=6, class_=f"path {css}"),
            el("circle", cx=14, cy=6, r=4, class_=f"dot {css}"),
            width=28,
            height=12,
            aria_hidden="true",
        )
        tag = " (control)" if line.control and "control" not in line.name else ""
        items.append(el("li", swatch, " ", given(line.name), tag))
    return el("ul", items, class_="legend")


def _curve_table(key: str, xs: tuple[float, ...], lines: Sequence[Curve]) -> Html:
    head = el("tr", el("th", key, scope="col"), [el("th", given(c.name), scope="col") for c in lines])
    rows = [
        el("tr", el("th", number(x), scope="row"), [el("td", number(c.values[i])) for c in lines])
        for i, x in enumerate(xs)
    ]
    table = el("table", el("thead", head), el("tbody", rows), class_="plain")
    return el("details", el("summary", "The same as numbers"), table)
