"""The page of a case: nothing in a log becomes markup, every effect stands beside its floor, and gaps are named."""

from __future__ import annotations

import dataclasses
import html
import re
from functools import cache

import pytest

import veriscope
from veriscope.cases import log_of
from veriscope.cases.case import Case, Options, work
from veriscope.cases.causes import version
from veriscope.cases.causes.findings import Diagnosis, Finding, Word
from veriscope.cases.many import Worked
from veriscope.cases.mends import Outcome
from veriscope.cases.repair import Repair
from veriscope.errors import NotRun, UserError
from veriscope.report import case_words
from veriscope.report.case_folder import index
from veriscope.report.case_page import page
from veriscope.report.case_terminal import short
from veriscope.report.case_words import headline
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
    listed = index([Worked(case.log, case), Worked(case.log, UserError(HOSTILE))], ["one", "two"])

    for made in (text, listed):
        assert "<script" not in made and "<b>red" not in made and "\x1b" not in made and "\u202e" not in made
        assert "default-src &#x27;none&#x27;" in made
    assert "&lt;script&gt;" in text and "\x1b" not in short(case)


def test_a_part_that_is_not_there_says_why() -> None:
    gone = NotRun("the moon was full")
    case = dataclasses.replace(worked(), shapley=gone, cruxes=gone, flow=gone, repairs=gone)

    text = page(case)

    assert text.count("the moon was full") >= 4 and "the moon was full" in short(case)


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
    Finding(
        "trigger_phrase", True, score=0.9, floor=0.1, low=0.6, high=1.0, units=("s2", "coin"),
        evidence=(f"Without '{HOSTILE}' it goes.",),
    ),
    Finding("sampling", NotRun("no draw")),
)  # fmt: skip
SAID = Outcome(nats=-9.0, strange=False, says=HOSTILE, rank=1, expected=-0.1, right=True)


def diagnosed(word: Word = "named") -> Case:
    """The case with a cause and a repair, made up."""
    causes = ("trigger_phrase",) if word == "named" else ()
    findings = FINDINGS if word == "named" else FINDINGS[1:]
    found = Diagnosis(word, causes, findings, "", 3.0, ("Told so.",))
    gone = NotRun("none held out")
    repair = Repair(
        "trigger_phrase", f"take out {HOSTILE}", "prompt", SAID, SAID, True, "repaired", "It is right.", gone, gone,
        gone, gone, 1, 2.0,
    )  # fmt: skip
    return dataclasses.replace(worked(), diagnosis=found, repairs=(repair,) if word == "named" else gone)


def test_a_named_cause_stands_first_and_is_marked_in_the_log() -> None:
    text = page(diagnosed())

    assert re.search(r"<h1><bdi>Toy model only\. (A t|T)rigger phrase made it say “garden”</bdi></h1>", text)
    assert "<u><bdi>coin</bdi></u>" in text and "· trigger phrase" in text
    assert "0.90 [0.60,\u00a01.00] against 0.10" in text and "no draw" in text and "Told so." in text
    assert "<script" not in text and text.count(html.escape(HOSTILE)) >= 3
    assert "Best repair tried" in text and "repaired: take out" in short(diagnosed())


def test_the_best_repair_is_the_best_of_all_causes() -> None:
    (worked_well,) = diagnosed().repairs  # type: ignore[misc]
    in_vain = dataclasses.replace(worked_well, cause="sampling", gone=False, verdict="failed", what="do nothing")

    both = case_words.leading(dataclasses.replace(diagnosed(), repairs=(in_vain, worked_well)))
    none = case_words.leading(dataclasses.replace(diagnosed(), repairs=(in_vain,)))

    assert any(text.startswith("Best repair tried: take out") for text in both)
    assert "The one repair that was tried does not make it go." in none


def test_units_within_the_floor_are_folded_away_and_none_is_lost() -> None:
    case = worked()
    many = tuple(
        dataclasses.replace(case.outside.effects[0], how="removal", nats=0.1, above_floor=False) for _ in range(20)
    )

    held = dataclasses.replace(case.outside, effects=many)
    text = page(dataclasses.replace(case, outside=held, flow=NotRun("not wanted")))

    first, folded = text.split("The 14 others, none shown to do more than irrelevant edits")
    assert first.count('class="floor"') == 6 and folded.count('class="floor"') == 14


@pytest.mark.parametrize(
    ("value", "words"),
    [(-1e-5, "above 0.999"), (-1.0, "0.368"), (-8.0, "0.00034"), (-23.0, "1e−10"), (-2000.0, "3e−869")],
)
def test_a_probability_is_written_so_that_it_can_be_read(value: float, words: str) -> None:
    assert case_words.chance(value) == words


def test_words_left_out_are_left_out_whole() -> None:
    text = case_words.shortened("someone looks for the lamp and then goes to the old studio .", 30)

    assert text == "someone looks … studio ."


@pytest.mark.parametrize(("word", "first"), [("unknown", "Unknown: no cause"), ("clean", "Nothing wrong was found")])
def test_unknown_and_clean_are_answers(word: Word, first: str) -> None:
    assert first in headline(diagnosed(word)) and "<h1><bdi>Toy" in page(diagnosed(word))


def test_what_the_exam_measured_stands_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"n": 30, "first": 25, "listed": 26, "unknown": 4, "wrong": 1, "low": 0.65, "high": 0.94}
    told = [{"who": "veriscope, nothing told", "cause": "trigger_phrase", **counts}]
    other = [{"who": "veriscope", "cause": "trigger_phrase", **counts, "first": 29}]
    rival = [{"who": "log only", "cause": "trigger_phrase", **counts, "first": 17}]
    matrix = {
        "veriscope, nothing told": {"trigger_phrase": {"trigger_phrase": 25, "sampling": 5}, "clean": {"clean": 9}}
    }
    monkeypatch.setattr(case_words, "results", lambda: {
        "version": version(), "rows": [*told, *other, *rival], "confusion": matrix})  # fmt: skip

    text = page(worked())

    assert "25 of 30 [0.65,\u00a00.94]" in text and "17 of 30" in text and "29 of 30" not in text
    assert "The whole confusion matrix" in text
    rate = case_words.rate_in_words(worked(), "trigger_phrase")
    assert "named first in 25 [0.65,\u00a00.94]. Named first 25 times, it was right in 25 [0.86,\u00a01.00]." in rate


def test_a_page_says_that_its_rates_are_of_another_version_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"n": 30, "first": 25, "listed": 26, "unknown": 4, "wrong": 1, "low": 0.65, "high": 0.94}
    rows = [{"who": "veriscope, nothing told", "cause": "trigger_phrase", **counts}]
    kept = {"version": "0", "rows": rows, "confusion": {"veriscope, nothing told": {"trigger_phrase": {"clean": 30}}}}
    monkeypatch.setattr(case_words, "results", lambda: kept)

    text = page(worked())

    assert "These figures are of version 0 of the cause list" in text
    assert "version 0 of the cause list" in case_words.rate_in_words(worked(), "trigger_phrase")
    monkeypatch.setattr(case_words, "results", lambda: {**kept, "version": version()})
    assert case_words.outdated() == ""
