"""What a case was working on, on its page and in words: the claim, its errors, the traps, and what stays silent."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from veriscope.cases.kept_topics import Rate, TopicAt, TopicReading, TrapRate, WorkedOn
from veriscope.errors import NotRun
from veriscope.report.case_topics import topics, topics_words

NEVER, OFTEN = Rate(0, 60, 0.0, 0.049), Rate(45, 60, 0.64, 0.84)
SILENCE = "'b<i>' stays silent: it is read in 45 of 60 (at most 84.0%) turns where its words stand alone."


@pytest.fixture
def found() -> WorkedOn:
    quoted = TrapRate("quoted", NEVER, OFTEN, OFTEN, NEVER)
    told = TopicReading("spelling", "spelling a word", 40, NEVER, NEVER, (quoted,), NotRun("not asked for"), "")
    silent = TopicReading("b<i>", "b", 40, NEVER, NEVER, (), "REFUTED: the words tell as much", SILENCE)
    turns = (
        TopicAt(0, ("b<i>",), "", f"not told: {SILENCE}", {"spelling": 0.01, "b<i>": 0.9}, ("spelling",)),
        TopicAt(2, ("spelling",), "spelling", "", {"spelling": 0.9, "b<i>": 0.01}, ()),
    )
    sentence = "Before the strange words it was working on spelling (spelling a word), with an error of at most 10%."
    return WorkedOn(sentence, turns, 0.1, (told, silent), Rate(90, 100, 0.8, 0.95), Rate(80, 100, 0.7, 0.88))


def _case(found: WorkedOn | NotRun) -> Any:
    """All that the section looks at."""
    return SimpleNamespace(topics=found)


def test_the_page_says_what_was_told_how_often_it_errs_and_what_stays_silent(found: WorkedOn) -> None:
    text = str(topics(_case(found)))

    assert "Before the strange words it was working on spelling" in text
    assert "by its words 45" in text and "not tried" in text
    assert (
        "Told rightly of 100 held-out turns: 90, by a text classifier 80; with a trap before the task, 45 and 0 of 60"
        in text
    )
    assert "1 topic stays silent" in text and "b&lt;i&gt;" in text and "b<i>" not in text
    assert "REFUTED: the words tell as much" in text


def test_words_for_the_terminal_name_every_turn_and_every_silence(found: WorkedOn) -> None:
    lines = topics_words(found)

    assert lines[0] == found.sentence
    assert lines[1] == f"turn 0: not told: {SILENCE}" and "Topics that stay silent: b<i>." in lines


def test_without_readings_there_is_no_section(found: WorkedOn) -> None:
    assert topics(_case(NotRun("none were given"))) is None
    assert "not put on trial" in str(topics(_case(replace(found, readings=found.readings[:1]))))
