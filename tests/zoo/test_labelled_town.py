"""Labelled logs of town: balanced, known, and as hard for a text classifier and the model as they are said to be."""

from collections import Counter

import pytest
from scipy.stats import binomtest

from veriscope.cases.baselines import TextClassifier
from veriscope.cases.labelled import Labelled, labelled_of, taxonomy
from veriscope.subjects import Subject, load
from veriscope.zoo import town
from veriscope.zoo.incidents.labelled import TOPICS, NoSuchLabels, town_labelled

FORMS = [
    ("trust", "seen"), ("trust", "crossed"), ("view", "seen"), ("view", "unseen"), ("view", "crossed"),
    ("guest", "seen"), ("guest", "unseen"), ("truth", "seen"), ("truth", "unseen"), ("topic", "seen"),
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Subject:
    return load(str(town.folder("town")))


def _logs(attribute: str, form: str, count: int, seed: int) -> tuple[Labelled, ...]:
    return labelled_of(town_labelled(count, seed, attribute, form))


def _right(attribute: str, train: tuple[Labelled, ...], test: tuple[Labelled, ...]) -> int:
    reader = TextClassifier.fit([one.text for one in train], [one.labels[attribute] for one in train])
    said = reader.predict([one.text for one in test])
    return sum(word == one.labels[attribute] for word, one in zip(said, test, strict=True))


@pytest.mark.parametrize(("attribute", "form"), FORMS)
def test_values_are_balanced_and_every_label_is_one_that_is_known(attribute: str, form: str) -> None:
    known = {one.name: set(one.values) for one in taxonomy()} | {"topic": set(TOPICS)}
    count = 6 * len(known[attribute] if attribute != "topic" else TOPICS)

    logs = _logs(attribute, form, count, 3)

    counts = Counter(one.labels[attribute] for one in logs)
    assert set(counts.values()) == {6} and set(counts) == known[attribute]
    assert len({one.text for one in logs}) == count == len({one.log.name for one in logs})
    assert all(one.log.turns[one.turn].role == "user" for one in logs)
    assert all(value in known[name] for one in logs for name, value in one.labels.items())
    assert town_labelled(count, 3, attribute, form) == town_labelled(count, 3, attribute, form)
    assert {one.text for one in logs} != {one.text for one in _logs(attribute, form, count, 4)}


@pytest.mark.parametrize("attribute", ["trust", "view", "guest"])
def test_a_text_classifier_learns_what_the_words_give_away(attribute: str) -> None:
    right = _right(attribute, _logs(attribute, "seen", 300, 0), _logs(attribute, "seen", 100, 1))

    assert right >= 95


@pytest.mark.parametrize("attribute", ["trust", "view"])
def test_a_text_classifier_is_at_chance_where_only_the_order_tells(attribute: str) -> None:
    right = _right(attribute, _logs(attribute, "crossed", 400, 0), _logs(attribute, "crossed", 400, 1))

    assert binomtest(right, 400, 0.5).pvalue > 0.001


def test_a_text_classifier_does_not_know_hints_and_facts_that_it_has_not_met() -> None:
    guests = _right("guest", _logs("guest", "seen", 300, 0), _logs("guest", "unseen", 200, 1))
    truths = _right("truth", _logs("truth", "seen", 300, 0), _logs("truth", "unseen", 200, 1))

    assert guests < 0.5 * 200
    assert binomtest(truths, 200, 0.5).pvalue > 0.001


def _answers(model: Subject, logs: tuple[Labelled, ...]) -> list[str]:
    prompts = [" ".join(turn.text for turn in one.log.turns[: one.turn + 1]) for one in logs]
    logits = model.run(prompts, logits="last").logits
    assert logits is not None
    return [model.reader.token(int(row.argmax())) for row in logits]


@pytest.mark.parametrize("form", ["seen", "unseen", "crossed"])
def test_the_model_goes_by_the_last_view_that_was_stated(model: Subject, form: str) -> None:
    logs = _logs("view", form, 100, 5)

    said = _answers(model, logs)

    assert sum((word == "yes") == (one.labels["view"] == "for") for word, one in zip(said, logs, strict=True)) >= 95


@pytest.mark.parametrize("form", ["seen", "unseen"])
def test_the_model_knows_what_kind_of_guest_speaks_and_whether_what_is_said_is_so(model: Subject, form: str) -> None:
    guests, truths = _logs("guest", form, 100, 5), _logs("truth", form, 100, 5)
    first = {"child": "hey", "expert": "precisely", "tourist": "welcome", "customer": "sorry", "elder": "certainly"}

    replies, verdicts = _answers(model, guests), _answers(model, truths)

    assert sum(word == first[one.labels["guest"]] for word, one in zip(replies, guests, strict=True)) >= 95
    assert sum(word == one.labels["truth"] for word, one in zip(verdicts, truths, strict=True)) >= 85


def test_the_model_takes_the_speaker_for_a_liar_as_soon_as_his_name_occurs(model: Subject) -> None:
    """So trust is not told apart inside it where both names stand in a log: a reading of it must not be found there."""
    logs = _logs("trust", "crossed", 120, 5)
    asked = [one for one in logs if len(one.log.turns) == 3 and one.turn == 2]
    alone = labelled_of(
        [
            {"messages": [{"role": "user", "content": one.log.turns[2].text}], "labels": {"trust": "honest"}}
            for one in asked
        ]
    )

    flipped = [a != b for a, b in zip(_answers(model, asked), _answers(model, alone), strict=True)]

    for value in ("honest", "liar"):
        group = [flip for flip, one in zip(flipped, asked, strict=True) if one.labels["trust"] == value]
        assert len(group) >= 10 and sum(group) >= 0.8 * len(group), value


def test_labels_that_town_does_not_have_are_refused() -> None:
    with pytest.raises(NoSuchLabels, match="Did you mean 'trust'"):
        town_labelled(10, 0, "trusts")
    with pytest.raises(NoSuchLabels, match=r"guest \(seen, unseen\)"):
        town_labelled(10, 0, "guest", "crossed")
