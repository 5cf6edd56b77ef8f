"""Text classifier and asking the model: right where an answer was planted, silent or at chance where none was."""

import json

import pytest
import torch

from veriscope.cases import Strange, log_of, transcript
from veriscope.cases.baselines import Asked, OneLabel, TextClassifier, asked
from veriscope.cases.labelled import Attribute, labelled_of, taxonomy
from veriscope.cases.plain import made, plain
from veriscope.cases.transcript import Transcript
from veriscope.errors import NotRun
from veriscope.examples import Sample
from veriscope.examples.sample import make_example
from veriscope.rivals.ngrams import BagOfNgrams
from veriscope.subjects import Subject, load
from veriscope.zoo import town
from veriscope.zoo.incidents.labelled import town_labelled
from veriscope.zoo.town import world as w


@pytest.fixture(scope="module")
def model() -> Subject:
    return load(str(town.folder("town")))


def _texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    logs = labelled_of(town_labelled(count, seed, "guest"))
    return [one.text for one in logs], [one.labels["guest"] for one in logs]


def test_the_classifier_is_the_rival_of_trials_written_as_numbers() -> None:
    texts, labels = _texts(60, 0)
    new, _ = _texts(20, 1)
    logs = [str(number) for number in range(60)]
    examples = tuple(
        make_example(text, label=label, cluster=log) for text, label, log in zip(texts, labels, logs, strict=True)
    )
    rival = BagOfNgrams(max_features=500).fit(None, Sample(examples, "logs", "", "dev", "label"))

    mine = TextClassifier.fit(texts, labels, logs, most=500)

    asked_of = Sample(tuple(make_example(text) for text in new), "logs", "", "dev", "label")
    assert mine.classes == rival.classes
    torch.testing.assert_close(mine.probabilities(new), rival.probabilities(asked_of), atol=1e-5, rtol=0)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_the_classifier_comes_back_from_json_as_it_was(labels: list[str]) -> None:
    texts = [f"{label} word {n}" for n in range(6) for label in labels]
    fitted = TextClassifier.fit(texts, labels * 6)

    again = made(TextClassifier, json.loads(json.dumps(plain(fitted))))

    assert again == fitted
    assert again.predict([f"say {label} word" for label in labels]) == labels
    assert again.predict([]) == []


def test_a_classifier_of_one_label_is_refused() -> None:
    with pytest.raises(OneLabel, match="all 2 logs are 'a'"):
        TextClassifier.fit(["x", "y"], ["a", "a"])


PLACE = Attribute("place", ("kitchen", "garden", "attic"), "where the ball is", "", "where is the ball ? answer :")


def _scene(model: Subject, place: str) -> Transcript:
    text = f"the key is in the hall . the ball is in the {place} ."
    log = log_of({"messages": [{"role": "user", "content": text}]}, answered=False)
    return transcript(log, Strange(0, 0, len(text)), model)


@pytest.mark.parametrize("place", PLACE.values)
def test_the_model_answers_what_the_log_says(model: Subject, place: str) -> None:
    found = asked(model, _scene(model, place), PLACE)

    assert isinstance(found, Asked)
    assert found.answer == place and max(found.shares) > 0.9
    assert sum(found.shares) == pytest.approx(1)
    assert made(Asked, json.loads(json.dumps(plain(found)))) == found


def test_what_the_model_would_say_to_the_bare_question_is_taken_off(model: Subject) -> None:
    """A log that says nothing about the place moves no value far, whatever the words' own odds are."""
    text = w.FILLERS[0]
    log = log_of({"messages": [{"role": "user", "content": text}]}, answered=False)
    ball = Attribute("place", w.PLACES, "where the ball is", "", "where is the ball ? answer :")

    found = asked(model, transcript(log, Strange(0, 0, len(text)), model), ball)

    assert isinstance(found, Asked)
    alone = [
        float(model.run([ball.asks], logits="last").logits[0].log_softmax(-1)[model.reader.encode_bare(place)[0]])
        for place in ball.values
    ]
    for nats, said, bare in zip(found.nats, found.plain, alone, strict=True):
        assert nats == pytest.approx(said - bare, abs=1e-3)


def test_the_question_goes_into_the_users_turn_and_through_the_chat_template() -> None:
    """Most templates refuse turns that do not alternate."""
    chatty = load(str(town.folder("town")))
    chatty.reader.tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{{ m.content }} {% endfor %}"
    )

    found = asked(chatty, _scene(chatty, "attic"), PLACE)

    assert isinstance(found, Asked)
    assert found.answer == "attic" and found.how == "the tokenizer's chat template"


def test_a_model_that_lacks_the_words_is_not_asked(model: Subject) -> None:
    trust = next(attribute for attribute in taxonomy() if attribute.name == "trust")

    found = asked(model, _scene(model, "attic"), trust)

    assert isinstance(found, NotRun) and "has no tokens for the question" in found.reason
