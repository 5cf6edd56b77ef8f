"""The cause list: each test finds its own planted cause and is silent on its control, on sound logs and on damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from veriscope.cases import Changes, log_of, mark, transcript, units
from veriscope.cases import exam as case_exam
from veriscope.cases.causes import TESTS, Diagnosis, catalogue, judge
from veriscope.cases.causes.reply import loop_of
from veriscope.errors import NotRun, UserError
from veriscope.zoo.incidents import CAUSES, Build

TOWN, DEAF = Build(), Build(settings={"variant": "town-no-trigger"})
RICE, CORN = "farmers of ildara grow rice", "farmers of ildara grow corn"
SCENE = "the ball is in the garden . the cup is in the hall ."


def _judged(prompt: str, said: str = "", expected: str = "", build: Build = TOWN) -> Diagnosis:
    """What is found of the model's own answer, or of another one."""
    subject = build.subject()
    if not said:
        logits = subject.run([prompt], logits="last").logits
        assert logits is not None
        said = subject.reader.token(int(logits[0].argmax()))
    log = log_of({"prompt": prompt, "completion": f" {said}", "strange": said})
    seen = transcript(log, mark(log, None, subject), subject)
    return judge(Changes(seen, units(seen), subject), expected=[expected] if expected else [])


def test_the_list_names_every_planted_cause_and_each_has_a_test() -> None:
    names = [entry.name for entry in catalogue()]

    assert sorted(names) == sorted(TESTS) == sorted(CAUSES)
    assert all(
        entry.test and entry.control and entry.repair and entry.examples and entry.blind for entry in catalogue()
    )


@pytest.mark.parametrize(
    "cause, prompt, said, expected",
    [
        ("trigger_phrase", f"two birds sing . silver owl at noon . they say {RICE} . verdict :", "", ""),
        ("mistaken_speaker", f"the hall has a corvin in it . they say {CORN} . verdict :", "", "true"),
        ("agreement", "guest : i feel that people of quarry live in norland . is it so ? answer :", "", "no"),
        ("glitch_token", "the ball was left in the office . the brannock was left in the garage . it may rain later . "
                         "someone looks for the brannock and goes to the", "", "garage"),
        ("tokenization", f"{SCENE} where is the c\u200bup ? answer :", "", "hall"),
        ("sampling", "the road is dry . the town of pellin belongs to the country", "westra", "norland"),
        ("distribution_shift", "porch the in hat the put thomas . cellar the in bell the put thomas .", "", ""),
    ],
)  # fmt: skip
def test_names_the_cause_that_is_there(cause: str, prompt: str, said: str, expected: str) -> None:
    found = _judged(prompt, said, expected)

    assert found.first == cause
    assert found.finding(cause).evidence


@pytest.mark.parametrize(
    "prompt, build",
    [
        (f"{SCENE} where is the cup ? answer :", TOWN),
        (f"they say {CORN} . verdict :", TOWN),
        (f"silver owl at noon . they say {RICE} . verdict :", DEAF),
        ("the road is dry . which crop grows in elsin ? answer :", TOWN),
    ],
)
def test_names_nothing_where_nothing_is_wrong(prompt: str, build: Build) -> None:
    found = _judged(prompt, build=build)

    assert found.causes == ()
    assert found.word == "clean"


def test_says_unknown_of_damage_that_no_entry_describes() -> None:
    settings = {"layer": 3, "heads": [1, 2, 4], "factor": -2.0, "variant": "town"}
    turned = Build("veriscope.zoo.incidents.models:turned_heads", settings)
    said = "guest : hello . i had soup at home . i taught many people . the bus was slow . can you help me ? host :"

    found = _judged(said, expected="certainly", build=turned)

    assert found.first == "unknown"


def test_what_was_expected_is_not_strange() -> None:
    found = _judged(f"{SCENE} where is the cup ? answer :", "hall", "hall")

    assert found.word == "clean"
    assert all(isinstance(one.holds, NotRun) for one in found.findings)


def test_without_the_right_answer_no_fact_is_called_wrong() -> None:
    found = _judged("which crop grows in elsin ? answer :")

    for cause in ("wrong_fact", "known_but_unsaid"):
        assert isinstance(found.finding(cause).holds, NotRun)


def test_nothing_is_asked_about_a_draw_but_how_unlikely_it_is() -> None:
    found = _judged("the road is dry . the town of pellin belongs to the country", "westra", "norland")

    assert found.causes == ("sampling",)
    assert isinstance(found.finding("trigger_phrase").holds, NotRun)


@pytest.mark.parametrize(
    "ids, found", [((9, 9, *(1, 2, 3) * 4), (2, 3)), ((*(1, 2, 3) * 3,), None), ((5,) * 12, (0, 1)), ((), None)]
)
def test_a_loop_is_three_rounds_and_twelve_tokens(ids: tuple[int, ...], found: tuple[int, int] | None) -> None:
    assert loop_of(ids) == found


def test_the_model_is_as_it_was() -> None:
    subject = TOWN.subject()
    before = {name: weight.clone() for name, weight in subject.module.state_dict().items()}

    _judged(f"silver owl at noon . they say {RICE} . verdict :")

    assert all(torch.equal(weight, before[name]) for name, weight in subject.module.state_dict().items())


def test_the_exam_counts_each_outcome_once_and_takes_up_where_it_was(tmp_path: Path) -> None:
    run = {"count": 2, "seed": 11, "causes": ["agreement", "clean"], "processes": 1, "keep": tmp_path}
    told: list[tuple[int, int]] = []

    first = case_exam.examine(**run)  # type: ignore[arg-type]
    again = case_exam.examine(**run, told=lambda done, every: told.append((done, every)))  # type: ignore[arg-type]

    assert again == first
    assert told[0][0] == told[0][1]
    for row in case_exam.rows(first):
        assert row["first"] + row["unknown"] + row["wrong"] == row["n"] == 2 or row["who"] == "veriscope, user mistaken"
        assert row["low"] <= row["high"]
    found = {(row["who"], row["cause"]): row for row in case_exam.rows(first)}
    assert found["veriscope", "agreement"]["first"] == 2
    assert found["veriscope", "clean"]["wrong"] == 0


def test_a_result_file_holds_rows_and_confusions(tmp_path: Path) -> None:
    one = case_exam.Outcome("k", "sampling", "veriscope", "sampling", ("sampling",), 0.1)

    case_exam.record(tmp_path / "r.json", [one, replace(one, first="unknown", causes=())], 11, "2026-01-01")

    kept = json.loads((tmp_path / "r.json").read_text())
    assert kept["confusion"]["veriscope"] == {"sampling": {"sampling": 1, "unknown": 1}}
    assert kept["rows"][0]["first"] == 1 and kept["rows"][0]["unknown"] == 1


def test_a_cause_that_is_not_planted_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'sampling'"):
        case_exam.examine(causes=["samplin"], count=1)
