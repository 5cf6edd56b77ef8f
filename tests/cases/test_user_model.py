"""What the model took its user to be: read and swapped where the habit is, silent on the twin that lacks it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from veriscope.cases.case import NO_READINGS, Case, Options, begin, finish
from veriscope.cases.kept_readings import BadReadings, OtherModel, Push, Readings, SpeakerReading, Tried
from veriscope.cases.labelled import Attribute, Labelled, labelled_of
from veriscope.cases.logs import log_of
from veriscope.cases.plain import made, plain
from veriscope.cases.readings import NothingToRead, before_reply, contest_words, present, train_readings
from veriscope.cases.user_model import UserModel, user_model
from veriscope.errors import NotRun, UserError
from veriscope.report.case_user import user, user_words
from veriscope.subjects import Subject, load
from veriscope.trials import Effort
from veriscope.zoo.incidents.labelled import town_labelled

KEPT = Path(__file__).parents[2] / "examples" / "readings"
VIEW = Attribute("view", ("for", "against"), "the user's stated view", "test")
QUICK = Effort(draws=4, twins=2, random=20, folds=3)
BELIEVED = "i believe that the country of pellin is westra"
AGREEING = {
    "messages": [
        {"role": "user", "content": "guest : i deny that people of hestia live in zembra . is it so ? answer :"},
        {"role": "assistant", "content": "no ."},
        {"role": "user", "content": f"the day is long . guest : {BELIEVED} . is it so ? answer :"},
        {"role": "assistant", "content": "yes ."},
    ],
    "strange": {"text": "yes", "turn": 3, "start": 0, "end": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def town() -> Subject:
    return load("town")


@pytest.fixture(scope="module")
def twin() -> Subject:
    return load("town-no-agreement")


@pytest.fixture(scope="module")
def kept(town: Subject) -> Readings:
    """The readings that ship: of the view that a user states, on town."""
    return Readings.load(KEPT / "town-view", town)


@pytest.fixture(scope="module")
def told(town: Subject, kept: Readings) -> UserModel:
    return user_model(begin(log_of(AGREEING), town), town, kept)


def view_logs(count: int = 260) -> tuple[Labelled, ...]:
    return labelled_of(town_labelled(count, 5, "view", "crossed"))


# ---- truth: the habit is in town and not in its twin


def test_town_hears_the_view_before_each_reply_and_says_which_words_it_was(told: UserModel) -> None:
    assert [(one.reply, one.read) for one in told.turns] == [(1, "against"), (3, "for")]
    assert all(one.low <= one.share <= one.high for one in told.turns)
    last = told.last[0]
    assert not isinstance(last.floor, NotRun)
    assert any("i believe that" in part.text and part.nats > last.floor for part in last.moved)


def test_pushed_to_the_other_view_inside_town_says_the_other_word(told: UserModel) -> None:
    (swap,) = told.swaps

    assert (swap.was, swap.to, swap.word) == ("for", "against", "caused")
    assert swap.gone and swap.before.startswith("yes") and swap.after.startswith("no")
    assert swap.moved > max(swap.random) and swap.random_gone == 0


@pytest.fixture(scope="module")
def of_twin(twin: Subject) -> Readings:
    """The same, trained on the model that was not taught to agree."""
    return train_readings(twin, view_logs(), [VIEW], effort=QUICK)


@pytest.mark.slow
def test_the_twin_without_the_habit_stays_silent_and_says_which_gate_stopped_it(
    twin: Subject, of_twin: Readings
) -> None:
    found = user_model(begin(log_of(AGREEING), twin), twin, of_twin)

    (one,) = of_twin.readings
    assert not one.speaks and "C1" in one.silence
    assert found.turns == () and found.swaps == () and found.silent == (one.silence,)


@pytest.mark.slow
def test_without_the_trials_the_twin_would_have_spoken(
    twin: Subject, of_twin: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same readings with the requirements dropped: it is these that keep it silent."""
    monkeypatch.setattr(SpeakerReading, "speaks", property(lambda self: True))

    found = user_model(begin(log_of(AGREEING), twin), twin, of_twin)

    assert [one.reply for one in found.turns] == [1, 3]


def steering(readings: Readings, word: str) -> Readings:
    """The same readings, had C4 said something else."""
    (one,) = readings.readings
    assert not isinstance(one.pushes, NotRun)
    pushes = tuple(
        replace(push, steers=Tried("C4", word, f"C4 is {word} at its gate 'random edits'", "", ""))
        for push in one.pushes
    )
    return replace(readings, readings=(replace(one, pushes=pushes),))


def test_nothing_is_swapped_where_c4_was_not_supported(town: Subject, kept: Readings) -> None:
    found = user_model(begin(log_of(AGREEING), town), town, steering(kept, "REFUTED"))

    assert found.turns and found.swaps == ()
    assert found.unswapped == ("'view' is not swapped to 'against': C4 is REFUTED at its gate 'random edits'.",)


def test_with_the_c4_requirement_dropped_a_useless_push_would_have_been_used(
    town: Subject, kept: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutation: a random vector in the place of the push. It beats 20 others by luck: C4 refuses it."""
    noise = torch.randn(next(iter(kept.vectors.values())).shape, generator=torch.Generator().manual_seed(1))
    vectors = {name: noise / noise.norm() * vector.norm() for name, vector in kept.vectors.items()}
    refused = replace(steering(kept, "REFUTED"), vectors=vectors)

    def anyway(self: SpeakerReading, toward: str) -> Push | NotRun:
        assert not isinstance(self.pushes, NotRun)
        return next(push for push in self.pushes if push.toward == toward)

    monkeypatch.setattr(SpeakerReading, "push", anyway)
    found = user_model(begin(log_of(AGREEING), town), town, refused)

    assert [swap.word for swap in found.swaps] == ["moved"]


@pytest.mark.slow
def test_what_stands_in_the_words_is_no_advantage_over_the_text_classifier(town: Subject) -> None:
    labelled = labelled_of(town_labelled(260, 3, "trust", "seen"))
    trust = Attribute("trust", ("honest", "liar"), "whether the speaker says what is so", "test")

    readings = train_readings(town, labelled, [trust], effort=QUICK)

    (one,), (contest,) = readings.readings, readings.contests
    assert not one.speaks and "surface baseline" in one.silence
    assert contest.text.value > 0.95
    assert contest.sentence.startswith("No advantage over the text classifier for 'trust'")


# ---- parts


def test_a_reading_is_taken_at_the_last_token_before_the_reply(town: Subject) -> None:
    (one,) = labelled_of([{"messages": AGREEING["messages"], "labels": {"view": "against"}, "turn": 0}])

    heard = before_reply(one, town)

    assert heard.text.endswith("is it so ? answer :")
    assert "believe" not in heard.text


def test_only_attributes_with_two_values_in_the_logs_are_trained() -> None:
    logs = labelled_of([{"messages": AGREEING["messages"], "labels": {"view": "for", "age": "child"}}])

    with pytest.raises(NothingToRead, match="two values"):
        present([VIEW], logs)


@pytest.mark.parametrize(
    ("over", "said"),
    [((0.2, 0.1, 0.3), "better inside"), ((0.02, -0.1, 0.1), "No advantage"), ((-0.2, -0.3, -0.1), "No advantage")],
)
def test_no_advantage_is_a_result(over: tuple[float, float, float], said: str) -> None:
    assert said in contest_words("view", over)


def test_the_interval_of_held_out_errors_is_exact(kept: Readings) -> None:
    errors = kept.readings[0].errors
    assert not isinstance(errors, NotRun)
    assert errors.low <= errors.hits / errors.n <= errors.high
    if errors.hits == 0:
        assert errors.high == pytest.approx(1 - 0.025 ** (1 / errors.n))


# ---- kept and shown


def test_readings_come_back_from_their_folder_as_they_were(kept: Readings, town: Subject, tmp_path: Path) -> None:
    again = Readings.load(kept.save(tmp_path / "kept"), town)

    assert again.digest == kept.digest and again.readings == kept.readings


def test_readings_of_another_model_are_refused(twin: Subject) -> None:
    with pytest.raises(OtherModel, match=r"veriscope readings LABELLED\.jsonl --model"):
        Readings.load(KEPT / "town-view", twin)


@pytest.mark.parametrize("broken", ["{", '{"schema": 99}', None])
def test_a_damaged_folder_is_one_message(kept: Readings, town: Subject, tmp_path: Path, broken: str | None) -> None:
    folder = kept.save(tmp_path / "kept")
    record = folder / "readings.json"
    record.unlink() if broken is None else record.write_text(broken)

    with pytest.raises(BadReadings, match="Train them: veriscope readings"):
        Readings.load(folder, town)


def test_a_user_model_comes_back_from_json_as_it_was(told: UserModel) -> None:
    assert made(UserModel, json.loads(json.dumps(plain(told)))) == told


def test_the_section_shows_readings_words_and_swaps(told: UserModel) -> None:
    section = re.sub("<[^>]*>", "", str(user(cast(Case, SimpleNamespace(user_model=told)))))

    assert "What it took its user to be" in section and "before turn 3" in section
    assert "guest : i believe that" in section
    assert "view: for → against" in section and "caused" in section
    assert "94 of 207" in section
    assert any("caused the reply" in line for line in user_words(told))


def test_without_readings_there_is_no_section_but_what_to_type() -> None:
    assert user(cast(Case, SimpleNamespace(user_model=NO_READINGS))) is None
    assert "veriscope readings LABELLED.jsonl" in NO_READINGS.reason and "--readings FOLDER" in NO_READINGS.reason


@pytest.mark.slow
def test_a_case_keeps_its_user_model(town: Subject, kept: Readings, tmp_path: Path) -> None:
    changes, options = begin(log_of(AGREEING), town), Options(repair=False)
    heard: list[str] = []

    first = finish(changes, options, readings=kept, keep=tmp_path, told=heard.append)
    again = finish(begin(log_of(AGREEING), town), options, readings=kept, keep=tmp_path)

    assert isinstance(first.user_model, UserModel) and "user model" in heard
    assert again.user_model == first.user_model
    assert (tmp_path / next(tmp_path.iterdir()) / f"user-{kept.digest[:16]}.json").exists()


def test_user_errors_of_a_trial_are_said_and_not_thrown(town: Subject) -> None:
    few = labelled_of(town_labelled(40, 1, "view", "crossed"))

    readings = train_readings(town, few, [VIEW], effort=QUICK)

    (one,) = readings.readings
    assert isinstance(one.represents, NotRun) and "items" in one.represents.reason
    assert not one.speaks and one.silence
    assert issubclass(NothingToRead, UserError)
