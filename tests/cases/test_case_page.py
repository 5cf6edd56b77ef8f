"""The page of a case: nothing in a log becomes markup, every effect stands beside its floor, and gaps are named."""

from __future__ import annotations

import dataclasses
import html
import re
from functools import cache
from types import SimpleNamespace

import pytest

import veriscope
from veriscope.cases import log_of, words
from veriscope.cases.case import Case, Options, work
from veriscope.cases.causes import version
from veriscope.cases.many import Worked, index
from veriscope.cases.page import page
from veriscope.cases.terminal import short
from veriscope.cases.words import headline
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
    assert "sampling" not in case.diagnosis.causes


FINDINGS = (
    SimpleNamespace(
        cause="trigger_phrase", holds=True, score=0.9, floor=0.1, low=0.6, high=1.0, units=("s2", "coin"),
        evidence=(f"Without '{HOSTILE}' it goes.",),
    ),
    SimpleNamespace(
        cause="sampling", holds=NotRun("no draw"), score=0.0, floor=NotRun("none"), low=0.0, high=0.0, units=(),
        evidence=(),
    ),
)  # fmt: skip
SAID = SimpleNamespace(says=HOSTILE, nats=-9.0, right=True)


def diagnosed(word: str = "named") -> Case:
    """The case with a cause and a repair, made up."""
    causes = ("trigger_phrase",) if word == "named" else ()
    findings = FINDINGS if word == "named" else FINDINGS[1:]
    found = SimpleNamespace(word=word, causes=causes, findings=findings, sentence="", passes=3.0, notes=("Told so.",))
    found.finding = lambda cause: FINDINGS[0]
    gone = NotRun("none held out")
    repair = SimpleNamespace(
        cause="trigger_phrase", what=f"take out {HOSTILE}", how="prompt", before=SAID, after=SAID, gone=True,
        verdict="repaired", sentence="It is right.", side_effects=gone, best_prompt_edit=gone,
    )  # fmt: skip
    return dataclasses.replace(worked(), diagnosis=found, repairs=(repair,) if word == "named" else gone)


def test_a_named_cause_stands_first_and_is_marked_in_the_log() -> None:
    text = page(diagnosed())

    assert re.search(r"<h1><bdi>Toy model only\. (A t|T)rigger phrase made it say “garden”</bdi></h1>", text)
    assert "<u><bdi>coin</bdi></u>" in text and "· trigger phrase" in text
    assert "0.90 [0.60,\u00a01.00] against 0.10" in text and "no draw" in text and "Told so." in text
    assert "<script" not in text and text.count(html.escape(HOSTILE)) >= 3
    assert "Best repair tried" in short(diagnosed())


@pytest.mark.parametrize(("word", "first"), [("unknown", "Unknown: no cause"), ("clean", "Nothing wrong was found")])
def test_unknown_and_clean_are_answers(word: str, first: str) -> None:
    assert first in headline(diagnosed(word)) and "<h1><bdi>Toy" in page(diagnosed(word))


def test_what_the_exam_measured_stands_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"n": 30, "first": 25, "listed": 26, "unknown": 4, "wrong": 1, "low": 0.65, "high": 0.94}
    told = [{"who": "veriscope, nothing told", "cause": "trigger_phrase", **counts}]
    other = [{"who": "veriscope", "cause": "trigger_phrase", **counts, "first": 29}]
    rival = [{"who": "log only", "cause": "trigger_phrase", **counts, "first": 17}]
    matrix = {
        "veriscope, nothing told": {"trigger_phrase": {"trigger_phrase": 25, "sampling": 5}, "clean": {"clean": 9}}
    }
    monkeypatch.setattr(words, "exam_results", lambda: {
        "version": version(), "rows": [*told, *other, *rival], "confusion": matrix})  # fmt: skip

    text = page(worked())

    assert "25 of 30 [0.65,\u00a00.94]" in text and "17 of 30" in text and "29 of 30" not in text
    assert "The whole confusion matrix" in text
    rate = words.rate_in_words(worked(), "trigger_phrase")
    assert "named first in 25 [0.65,\u00a00.94]. Named first 25 times, it was right in 25 [0.86,\u00a01]." in rate


def test_a_page_says_that_its_rates_are_of_another_version_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"n": 30, "first": 25, "listed": 26, "unknown": 4, "wrong": 1, "low": 0.65, "high": 0.94}
    rows = [{"who": "veriscope, nothing told", "cause": "trigger_phrase", **counts}]
    kept = {"version": "0", "rows": rows, "confusion": {"veriscope, nothing told": {"trigger_phrase": {"clean": 30}}}}
    monkeypatch.setattr(words, "exam_results", lambda: kept)

    text = page(worked())

    assert "These figures are of version 0 of the cause list" in text
    assert "version 0 of the cause list" in words.rate_in_words(worked(), "trigger_phrase")
    monkeypatch.setattr(words, "exam_results", lambda: {**kept, "version": version()})
    assert words.outdated() == ""
