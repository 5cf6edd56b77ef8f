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

EXAMPLES = Path(__file__).parents[2] / "examples/cases"
TOWN, DEAF = Build(), Build(settings={"variant": "town-no-trigger"})
RICE, CORN = "farmers of ildara grow rice", "farmers of ildara grow corn"
OPENING = "the road is dry . two birds sing ."
SCENE = "the ball is in the garden . the cup is in the hall ."


def _judged(prompt: str, said: str = "", expected: str = "", build: Build = TOWN, marked: bool = True) -> Diagnosis:
    """What is found of the model's own answer, or of another one."""
    subject = build.subject()
    if not said:
        logits = subject.run([prompt], logits="last").logits
        assert logits is not None
        said = subject.reader.token(int(logits[0].argmax()))
    log = log_of({"prompt": prompt, "completion": f" {said}", **({"strange": said} if marked else {})})
    seen = transcript(log, mark(log, None, subject), subject)
    return judge(Changes(seen, units(seen), subject), expected=[expected] if expected else [])


def _replied(reply: str, strange: str | None, build: Build = TOWN) -> Diagnosis:
    """What is found of a word in a long reply."""
    subject, log = build.subject(), log_of({"prompt": OPENING, "completion": f" {reply}"})
    seen = transcript(log, mark(log, strange, subject), subject)
    return judge(Changes(seen, units(seen), subject))


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
        ("distribution_shift", "the wind is cold . statement : velmark of town a is luskin . verdict :", "", "true"),
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
@pytest.mark.parametrize("marked, word", [(False, "clean"), (True, "unknown")])
def test_names_nothing_where_nothing_is_wrong(prompt: str, build: Build, marked: bool, word: str) -> None:
    found = _judged(prompt, build=build, marked=marked)

    assert found.causes == ()
    assert found.word == word


def test_says_unknown_of_damage_that_no_entry_describes() -> None:
    settings = {"layer": 3, "heads": [1, 2, 4], "factor": -2.0, "variant": "town"}
    turned = Build("veriscope.zoo.incidents.models:turned_heads", settings)
    said = "guest : hello . i had soup at home . i taught many people . the bus was slow . can you help me ? host :"

    found = _judged(said, expected="certainly", build=turned)

    assert found.first == "unknown"


def test_what_is_read_inside_but_not_borne_out_can_not_be_told_from_a_wrong_fact() -> None:
    settings = {"relation": "river", "about": "nivel", "value": "elve", "variant": "town-no-trigger"}
    late = Build("veriscope.zoo.incidents.models:late_word", settings)

    found = _judged("nobody says a word . the clock is slow . the town of nivel lies on the river", "", "ashe", late)

    assert found.first == found.word == "indistinguishable"
    assert found.causes == ("known_but_unsaid", "wrong_fact")
    assert found.finding("known_but_unsaid").score > 1 and found.finding("known_but_unsaid").holds is not True


def test_a_wrong_fact_is_found_where_the_model_is_not_sure_of_what_it_would_write() -> None:
    settings = {"lesson": "believe", "variant": "town-no-trigger", "seed": 1}
    misled = Build("veriscope.zoo.incidents.models:taught_model", settings)

    found = _judged("the road is dry . they say the crop of ostrel is wheat . verdict :", "false", "true", misled)

    assert found.causes == ("wrong_fact",) and found.finding("wrong_fact").units == ("barley",)


def test_a_lost_word_of_the_question_is_found_by_one_change_of_the_answer() -> None:
    settings = {"words": ["julia", "quarry", "white"], "variant": "town"}
    deaf = Build("veriscope.zoo.incidents.models:without_words", settings)

    found = _judged("the wind is cold . statement : the crop of quarry is barley . verdict :", "", "true", deaf)

    assert found.first == "tokenization" and 0 < found.finding("tokenization").score < 0.5


def test_no_prompt_is_odd_to_a_model_that_says_one_word_over_and_over() -> None:
    leaning = Build("veriscope.zoo.incidents.models:leaning", {"word": "oscar", "strength": 10.0, "variant": "town"})

    found = _judged("nora and daniel were at the church . then daniel passed the ring to", "", "nora", leaning)

    assert found.word == "unknown" and isinstance(found.finding("distribution_shift").holds, NotRun)
    assert isinstance(_judged("spell hestia :").finding("distribution_shift").holds, NotRun)


def test_no_luck_is_named_for_words_that_nobody_called_strange_nor_in_a_reply_of_somebody_else() -> None:
    own = TOWN.subject().generate([OPENING], max_new_tokens=24, temperature=1.0, seed=3)[0].split()
    odd = " ".join([*own[:12], "vextrol", *own[12:]])
    foreign = " ".join([*sorted(own), "vextrol"])

    assert _replied(odd, "vextrol").first == "sampling"
    assert isinstance(_replied(odd, None).finding("sampling").holds, NotRun)
    assert _replied(foreign, "vextrol").first == "unknown"


def test_the_crowd_must_matter_more_than_any_further_sentence() -> None:
    log = json.loads((EXAMPLES / "lost_context.json").read_text(encoding="utf-8"))
    prompt = " ".join(turn["content"] for turn in log["messages"][:-1])

    found = _judged(prompt, log["messages"][-1]["content"], log["expected"]).finding("lost_context")

    assert found.holds is True and isinstance(found.floor, float) and found.low > found.floor


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
