"""Adding the difference between two runs moves the answer where there is a difference, and not where there is none."""

from __future__ import annotations

import pytest
import torch
from planted import colours, toy

from veriscope.errors import BadSetting, UnknownClass
from veriscope.findings import Change
from veriscope.methods import ContrastAddition
from veriscope.rivals import propensity
from veriscope.subjects import Subject

PAIRS = (("red one two", "blue one two"), ("five red six", "five blue six"))


def effect(subject: Subject, change: Change, dose: float = 1.0) -> float:
    texts = colours(20, seed=5).texts
    yes, no = (subject.answer_ids(texts, [w] * 20) for w in ("yes", "no"))
    rows = torch.arange(20)
    logits = subject.run(texts, edits=change.edits(dose), logits="last").logits
    assert logits is not None
    return float((logits[rows, yes] - logits[rows, no]).mean() - propensity(subject, texts, yes, no).mean())


def test_pairs_give_the_mean_difference_of_their_activations() -> None:
    subject = toy()

    found = ContrastAddition("late", pairs=PAIRS, toward="red").fit(subject, colours())

    positive, negative = (subject.acts([pair[i] for pair in PAIRS], "late") for i in (0, 1))
    assert found.vector is not None
    assert torch.allclose(found.vector, (positive - negative).mean(0))
    assert (found.kind, found.toward) == ("add", "red")
    assert effect(subject, found) > 1
    assert effect(subject, found, dose=-1.0) < -1


def test_pairs_that_do_not_differ_in_the_feature_do_not_move_the_answer() -> None:
    subject = toy()

    found = ContrastAddition("early", pairs=(("one two", "two one"), ("two one", "one two"))).fit(subject, colours())

    assert abs(effect(subject, found)) < 1e-5


@pytest.mark.parametrize("sources", [True, False])
def test_pairs_come_from_the_sample_where_none_are_given(sources: bool) -> None:
    subject, sample = toy(), colours(300, sources=sources)

    found = ContrastAddition("late").fit(subject, sample)

    assert found.vector is not None
    assert found.toward == "True"
    cosine = float(torch.cosine_similarity(found.vector, subject.module.feature, dim=0))
    assert cosine > (0.999 if sources else 0.9)
    assert effect(subject, found) > 1
    back = ContrastAddition("late", toward="False").fit(subject, sample)
    assert back.vector is not None
    assert torch.allclose(back.vector, -found.vector, atol=1e-5)


def test_labels_that_follow_nothing_give_a_short_vector() -> None:
    subject = toy()

    true, coin = (ContrastAddition("late").fit(subject, colours(300, shuffled=s)).vector for s in (False, True))

    assert true is not None and coin is not None
    assert abs(float(coin @ subject.module.feature)) < 0.2 * float(true @ subject.module.feature)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadSetting, match="pairs of"):
        ContrastAddition("late", pairs=(("red", ""),))
    with pytest.raises(BadSetting, match="'last', 'first' or a number when pairs are given"):
        ContrastAddition("late", position="colour", pairs=PAIRS)
    with pytest.raises(BadSetting, match="one site when pairs are given"):
        ContrastAddition(("early", "late"), pairs=PAIRS).fit(toy(), colours())
    with pytest.raises(UnknownClass, match="no class 'green'"):
        ContrastAddition("late", toward="green").fit(toy(), colours())
