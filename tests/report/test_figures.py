"""Figures: what is drawn where, and what is not drawn at all."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_study import CLAIMED, INVALID, REFUTED, SUPPORTED, represents, steers

from veriscope.report.figures import Axis, blocks, control_beside, curves, distribution, forest, gauge

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_an_axis_holds_its_values_in_order(values: list[float]) -> None:
    axis = Axis.over(values)

    places = [axis.at(v) for v in sorted(values)]

    assert places == sorted(places) and all(0 < p < 100 for p in places)
    assert 1 <= len(axis.ticks()) <= 12


def test_gates_that_scored_the_same_share_one_plot_with_the_hardest_bar() -> None:
    main, *side = blocks(SUPPORTED)

    assert main.marks[0].name == "film mood" and main.marks[0].estimate == CLAIMED
    assert [m.name for m in main.marks if m.strongest] == ["bag of n-grams"] and main.marks[1].strongest
    assert main.bar == pytest.approx(0.34 + 0.05)
    assert [m.kind for m in main.marks][-2:] == ["rival", "rival"]
    assert [b.title for b in side] == ["d6 online code", "f7 shift"] and all(b.side and b.drawn for b in side)


def test_the_bar_moves_with_the_control_that_matters() -> None:
    main = blocks(REFUTED)[0]

    assert main.marks[1].name == "random-weight twin 1" and main.bar == pytest.approx(0.66 + 0.05)


def test_a_control_that_was_not_run_is_listed_with_its_reason_and_not_drawn() -> None:
    text = forest(blocks(dataclasses.replace(SUPPORTED, gates=steers()))[0])

    assert "one class only" in text
    assert text.count('role="img"') == 2


def test_a_spread_is_drawn_with_the_strongest_control_of_its_unit() -> None:
    g1 = represents()[1]

    assert control_beside(SUPPORTED, g1) is not None
    assert "bag of n-grams" in (distribution(SUPPORTED, g1) or "")
    assert "film &#x27;The Long Wait&#x27;" in (distribution(SUPPORTED, g1) or "")
    assert distribution(INVALID, g1) is None


def test_a_curve_needs_a_control_curve_or_level() -> None:
    g1, *_ = steers()
    bare = dataclasses.replace(g1, series={k: v for k, v in g1.series.items() if k != "control"})
    beside = dataclasses.replace(SUPPORTED, gates=steers())

    assert "path control" in (curves(INVALID, g1) or "")
    assert curves(INVALID, bare) is None
    assert "best of 100 random edits, its level" in (curves(beside, bare) or "")
    assert curves(beside, dataclasses.replace(g1, series={"parity margin": (0.1,)})) is None


def test_a_gauge_shows_the_margin_only_where_one_was_tested() -> None:
    g1, d6 = represents()[1], represents()[6]

    assert "margin 0.05" in (gauge(g1) or "")
    assert gauge(d6) is None
