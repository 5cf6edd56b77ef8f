"""The case benchmark works a whole case; its times are printed and never asserted."""

from __future__ import annotations

import time

from benchmarks.case import DEAREST, SENTENCES, case, measure, rest

from veriscope.cases import find, transcript, units


def test_the_case_has_as_many_sentences_as_it_says_and_is_worked_whole() -> None:
    subject, log = case("tiny")
    seen = transcript(log, find(log, log.turns[-1].text), subject)

    found = measure(rounds=1, shape="tiny", warm=0)

    assert len(units(seen)) == SENTENCES and found["tokens"] == 408
    assert set(found["parts"]) == {"outside", "shapley", "cruxes", "flow", "bare_s"} and found["holds"]


def test_the_rest_of_a_case_is_timed_step_by_step() -> None:
    found = rest(time.process_time, "tiny")

    assert {"outside causes", "causes", "page", f"repairs of {DEAREST}"} <= set(found["seconds"])
    assert len(found["tried"]) == 3
