"""The case benchmark works a whole case; its times are printed and never asserted."""

from __future__ import annotations

from benchmarks.case import SENTENCES, case, measure

from veriscope.cases import find, transcript, units


def test_the_case_has_as_many_sentences_as_it_says_and_is_worked_whole() -> None:
    subject, log = case("tiny")
    seen = transcript(log, find(log, log.turns[-1].text), subject)

    found = measure(rounds=1, shape="tiny", warm=0)

    assert len(units(seen)) == SENTENCES and found["tokens"] == 408
    assert set(found["parts"]) == {"outside", "shapley", "cruxes", "flow", "bare_s"} and found["holds"]
