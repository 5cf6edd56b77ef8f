"""Words and numbers as they are printed."""

from __future__ import annotations

import pytest
from planted_study import REFUTED, SUPPORTED, estimate

from veriscope.errors import NotRun
from veriscope.report.markup import Html, el, given, render
from veriscope.report.text import amount, clean, headline, named, number
from veriscope.trials.evidence import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.05, "0.05"),
        (-0.31, "−0.31"),
        (1234.5, "1,234"),
        (1e-7, "1e-07"),
        (1.3e-16, "0"),
        (float("inf"), "∞"),
        (12.0, "12"),
    ],
)
def test_numbers_read_as_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (estimate(0.62), "0.62 [0.58, 0.66] bits"),
        (Estimate(0.0712, 0.0690, 0.0734, 500, 30), "0.071 [0.069, 0.073] bits"),
        (Estimate(-0.0004, -0.04, 0.04, 9, 9), "0.00 [−0.04, 0.04] bits"),
        (Estimate(412.0, 300.0, 520.0, 9, 9), "412 [300, 520] bits"),
        (Estimate(1.9, 1.9, 1.9, 9, 9), "1.9 bits"),
        (NotRun("no twin fits in memory"), "not run: no twin fits in memory"),
    ],
)
def test_an_amount_has_its_bounds_or_its_reason(shown: Estimate | NotRun, text: str) -> None:
    assert amount(shown, "bits") == text


def test_control_signs_and_turned_writing_are_made_visible() -> None:
    lost = "\N{REPLACEMENT CHARACTER}"

    assert clean("a\x1b[31mb\u202etxt\ud800\x00") == f"a{lost}[31mb[U+202E]txt{lost}{lost}"
    assert clean("שלום\tа\nb") == "שלום\tа\nb"


def test_markup_is_only_what_a_function_made() -> None:
    inner = given("<b>&\"'")

    assert el("p", inner, class_='a"b', hidden=True, title=None) == (
        '<p class="a&quot;b" hidden><bdi>&lt;b&gt;&amp;&quot;&#x27;</bdi></p>'
    )
    assert render(inner + "<i>") == "&lt;bdi&gt;&amp;lt;b&amp;gt;&amp;amp;&amp;quot;&amp;#x27;&lt;/bdi&gt;&lt;i&gt;"
    assert render([Html("<i>"), "<i>", None]) == "<i>&lt;i&gt;"


def test_the_headline_counts_what_stood() -> None:
    assert headline([], toy=False) == "Not supported: no verdict was reached"
    assert headline([SUPPORTED] * 2, toy=True) == "Toy model only. 2 of 2 claims supported"
    assert headline([SUPPORTED, REFUTED], toy=False) == "1 of 2 claims not supported, 1 supported"


def test_a_control_is_named_with_its_score() -> None:
    assert named(SUPPORTED, "bag of n-grams") == "bag of n-grams: 0.34 [0.31, 0.37]"
    assert named(SUPPORTED, "unheard of") == "unheard of"
    assert named(SUPPORTED, "") == "none recorded"


def test_a_control_is_as_exact_as_the_effect_it_stands_beside() -> None:
    tiny = Estimate(0.0003, -0.0006, 0.0011, 900, 30)

    assert amount(tiny, beside=estimate(0.62)) == "0.00 [0.00, 0.00]"
    assert amount(tiny) == amount(tiny, beside=NotRun("no effect")) == "0.0003 [−0.0006, 0.0011]"
