"""The page of a case: nothing in a log becomes markup, every effect stands beside its floor, and gaps are named."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import veriscope
from veriscope.cases import log_of
from veriscope.cases.case import Case, Options, work
from veriscope.cases.many import Worked, index
from veriscope.cases.page import page
from veriscope.cases.terminal import short
from veriscope.errors import NotRun, UserError
from veriscope.subjects import Subject
from veriscope.zoo import town

HOSTILE = "<script>alert(1)</script>"


@cache
def subject() -> Subject:
    return veriscope.load(town.folder("town"))


@cache
def worked() -> Case:
    text = "two birds sing . the coin is in the garden . in which room is the coin ? answer :"
    log = log_of({"prompt": text, "completion": " garden", "strange": "garden"}, "coin")
    return work(log, subject(), options=Options(repair=False))


def hostile() -> Case:
    """The same with words of someone who wants them to be markup, wherever a case holds text."""
    case = worked()
    swap = {"coin": HOSTILE, "garden": "\u202e<b>red", "birds": "\x1b[31m"}

    def put(value: object) -> object:
        if isinstance(value, str):
            for old, new in swap.items():
                value = value.replace(old, new)
            return value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: put(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        return tuple(map(put, value)) if isinstance(value, tuple) else value

    return put(case)  # type: ignore[return-value]


def test_every_effect_stands_beside_its_floor() -> None:
    case = worked()
    text = page(case)

    rows = re.findall(r'<tr class="(brings|holds|within)">.*?</tr>', text)

    assert len(rows) == sum(one.how == "removal" for one in case.outside.effects)
    assert text.count('class="floor"') == len(rows)
    assert 'data-figure="flow"' in text and "strange" in text and "Irrelevant edits" in text


def test_text_from_a_log_is_never_markup() -> None:
    case = hostile()
    text = page(case)
    listed = index([Worked(case.log, case), Worked(case.log, UserError(HOSTILE))])

    for made in (text, listed):
        assert "<script" not in made and "<b>red" not in made and "\x1b" not in made and "\u202e" not in made
        assert "default-src &#x27;none&#x27;" in made
    assert "&lt;script&gt;" in text and "\x1b" not in short(case)


def test_a_part_that_is_not_there_says_why() -> None:
    gone = NotRun("the moon was full")
    case = dataclasses.replace(worked(), shapley=gone, cruxes=gone, flow=gone, diagnosis=gone, repairs=gone)

    text = page(case)

    assert text.count("the moon was full") >= 5 and "the moon was full" in short(case)


def test_long_logs_are_drawn_with_their_strongest_sentences_only() -> None:
    case = worked()
    assert not isinstance(case.flow, NotRun)

    text = page(case)

    assert text.count('class="lane"') == sum(unit.kind == "sentence" for unit in case.outside.units)


def test_what_the_model_would_hardly_have_said_is_called_so() -> None:
    log = log_of({"prompt": "two birds sing . the coin is in the garden .", "completion": " vextrol quell zinqua"})

    case = work(log, subject(), (0, len(" vextrol quell zinqua")), options=Options(repair=False))

    assert "would hardly have said" in page(case) and "would hardly have said" not in page(worked())
