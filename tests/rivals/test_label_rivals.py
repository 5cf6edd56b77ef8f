"""What one would do without looking inside: found where the surface gives the label away, silent where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted import WORDS, colours, toy
from torch import Tensor, nn

from veriscope.errors import BadSetting, NotRun
from veriscope.examples import Sample, make_example
from veriscope.methods import encode
from veriscope.methods.bits import calibrated_bits
from veriscope.rivals import (
    AskModel,
    BagOfNgrams,
    EmbeddingProbe,
    LengthPosition,
    Majority,
    NgramBayes,
    Predictor,
    TokenPairs,
)
from veriscope.rivals.ask_model import label_scores
from veriscope.subjects import CharReader, Subject, WordReader, load

SURFACE = [
    Majority(),
    BagOfNgrams(),
    BagOfNgrams(unit="char"),
    EmbeddingProbe(),
    NgramBayes(),
    TokenPairs(),
    LengthPosition(),
    LengthPosition("colour"),
]


def name(rival: Any) -> str:
    return type(rival).__name__ + str(getattr(rival, "unit", getattr(rival, "position", "")))


def bits(rival: Any, subject: Subject, dev: Sample, held_out: Sample) -> float:
    predictor = rival.fit(subject, dev)
    shares = predictor.probabilities(held_out)
    codes, classes = encode(held_out)
    assert predictor.classes == classes
    assert isinstance(predictor, Predictor)
    assert torch.allclose(shares.sum(1), torch.ones(len(held_out)), atol=1e-4)
    scores = shares.clamp(1e-4, 1).log()
    scores = scores[:, 1:] - scores[:, :1] if len(classes) == 2 else scores
    return float(calibrated_bits(scores[None], codes[None], len(classes))[0])


@pytest.mark.parametrize("rival", SURFACE[1:5], ids=name)
def test_a_label_that_stands_in_the_words_is_found_and_a_coin_is_not(rival: Any) -> None:
    subject = toy()

    assert bits(rival, subject, colours(200), colours(200, seed=1)) > 0.8
    assert bits(rival, subject, colours(200, shuffled=True), colours(200, shuffled=True, seed=1)) < 0.05


def worded(n: int, seed: int, rule: str) -> Sample:
    """Texts labelled by a table of coins that a rule looks words up in.

    "places": two words at fixed places that lie far apart; "near": two words side by side, anywhere; "three": three
    words at fixed places.
    """
    rng, table = np.random.default_rng([7, seed]), np.random.default_rng(7).integers(0, 2, (8, 8, 8))
    rows = []
    for i in range(n):
        a, b, c = rng.integers(0, 8, 3)
        words = [f"n{w}" for w in rng.integers(0, 40, 6)]
        if rule == "near":
            cut = int(rng.integers(0, 7))
            words[cut:cut] = [f"a{a}", f"b{b}"]
        else:
            words = [words[0], f"a{a}", *words[1:3], f"c{c}", *words[3:5], f"b{b}", words[5]]
        label = table[a, b, c] if rule == "three" else table[a, b, 0]
        rows.append(make_example(" ".join(words), label=str(label), cluster=str(i)))
    return Sample(tuple(rows), rule, "h", "dev", "label")


def worded_subject() -> Subject:
    words = [f"{kind}{i}" for kind in "abc" for i in range(8)] + [f"n{i}" for i in range(40)]
    return load(Chars(len(words)), tokenizer=WordReader(words), name="worded")


@pytest.mark.parametrize(
    "rival, rule, reads",
    [
        (TokenPairs(), "places", True),
        (TokenPairs(), "near", False),
        (TokenPairs(), "three", False),
        (NgramBayes(), "near", True),
        (NgramBayes(), "places", False),
        (NgramBayes(), "three", False),
    ],
)
def test_a_function_of_two_words_is_surface_and_one_of_three_is_not(rival: Any, rule: str, reads: bool) -> None:
    found = bits(rival, worded_subject(), worded(900, 0, rule), worded(400, 1, rule))

    assert found > 0.6 if reads else found < 0.1


@pytest.mark.parametrize("rival", [TokenPairs(), NgramBayes()])
def test_what_was_chosen_stays_for_further_fits(rival: Any) -> None:
    subject, dev = worded_subject(), worded(300, 0, "near")
    found = rival.fit(subject, dev)

    again = found.settled.fit(subject, dev)

    assert again.spent.trials == 1 < found.spent.trials
    assert torch.equal(again.probabilities(dev), found.probabilities(dev))


def lengths(n: int, seed: int, by: str) -> Sample:
    """Texts labelled by how long they are, or by where the word "red" stands in a text of fixed length."""
    source = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        yes = bool(torch.randint(2, (1,), generator=source))
        if by == "length":
            words = ["one"] * (7 if yes else 4)
        else:
            place = int(torch.randint(3, (1,), generator=source)) + (4 if yes else 0)
            words = ["one"] * place + ["red"] + ["one"] * (7 - place)
        rows.append(make_example(" ".join(words), label=str(yes), factors={"colour": "red"}, cluster=str(len(rows))))
    return Sample(tuple(rows), "lengths", "h", "dev", "long")


def test_length_and_position_are_found_by_the_rival_that_measures_them() -> None:
    subject = toy()

    assert bits(LengthPosition(), subject, lengths(150, 0, "length"), lengths(150, 1, "length")) > 0.8
    assert bits(LengthPosition("colour"), subject, lengths(150, 0, "place"), lengths(150, 1, "place")) > 0.8
    assert bits(LengthPosition("last"), subject, lengths(150, 0, "place"), lengths(150, 1, "place")) < 0.02


def test_the_embedding_of_the_token_read_is_seen_too() -> None:
    subject = toy()
    there = EmbeddingProbe("colour").fit(subject, colours())
    last = EmbeddingProbe().fit(subject, colours())

    assert there.probe.weight.shape[0] == last.probe.weight.shape[0] + 12


def test_majority_knows_the_frequencies_and_no_more() -> None:
    sample = colours(200)

    found = Majority().fit(None, sample)

    shares = found.probabilities(sample)
    assert torch.equal(shares[0], shares[-1])
    assert float(shares[0, 1]) == pytest.approx(sum(label == "True" for label in sample.labels) / 200)
    assert bits(Majority(), toy(), sample, colours(100, seed=1)) == 0


@pytest.mark.parametrize("rival", [*SURFACE[:2], *SURFACE[3:7]], ids=name)
def test_more_than_two_classes_work(rival: Any) -> None:
    three = [colours(90, seed=s).relabel([str((i + s) % 3) for i in range(90)]) for s in (0, 1)]

    assert bits(rival, toy(), *three) < 0.1


class Answering(nn.Module):
    """Continues with "True" where it saw "red" and with "False" where it saw "blue", if `knows`."""

    def __init__(self, knows: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), 4)
        table = torch.zeros(len(WORDS), len(WORDS))
        table[WORDS.index("red"), WORDS.index("True")] = table[WORDS.index("blue"), WORDS.index("False")] = 3.0 * knows
        self.table = nn.Embedding.from_pretrained(table)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids).cumsum(1) + 0 * self.embed(input_ids).sum(-1, keepdim=True)


def answering(knows: bool = True) -> Subject:
    return load(Answering(knows), tokenizer=WordReader(WORDS), name="answering")


@pytest.mark.parametrize("shots", [0, 4])
def test_a_model_that_knows_says_so_when_asked(shots: int) -> None:
    rival = AskModel(shots=shots)

    assert bits(rival, answering(), colours(150), colours(150, seed=1)) > 0.7
    assert bits(rival, answering(knows=False), colours(150), colours(150, seed=1)) < 0.03
    assert rival.fixed == (shots == 0)


def test_what_was_spent_on_asking_is_kept() -> None:
    found = AskModel(shots=4).fit(answering(), colours(150))

    assert not isinstance(found, NotRun)
    assert found.spent.examples == 104
    assert found.spent.passes >= 100
    solved = found.prompt.solved
    assert [e.label for e in solved] == ["False", "True", "False", "True"]
    assert len({e.cluster for e in solved}) == 4
    assert found.prompt.of(answering(), colours(2))[0].startswith(solved[0].text)


def test_a_model_that_cannot_spell_the_labels_is_not_asked() -> None:
    sample = colours().relabel(["crimson" if label == "True" else "azure" for label in colours().labels])

    found = AskModel().fit(answering(), sample)

    assert isinstance(found, NotRun)
    assert "no cue and label can be spelled" in found.reason


def test_labels_that_read_alike_to_the_model_are_not_asked_for() -> None:
    embed = Answering()
    subject = load(embed, tokenizer=WordReader(WORDS, unknown=WORDS[0]), name="toy")
    sample = colours().relabel(["crimson" if label == "True" else "azure" for label in colours().labels])

    found = AskModel().fit(subject, sample)

    assert isinstance(found, NotRun) and "read the same to the model" in found.reason


CHARS = "abcdef :\n"


class Chars(nn.Module):
    """Any causal model over characters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, size)
        nn.init.normal_(self.embed.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids).cumsum(1)


@pytest.fixture
def spelling() -> Subject:
    return load(Chars(len(CHARS)), tokenizer=CharReader(CHARS), name="chars")


def _token_scores(subject: Subject, text: str, tail: int) -> list[float]:
    """Log-probability of each of the last `tail` characters given those before, by a run of its own."""
    logits = subject.run([text], logits="all").logits
    assert logits is not None
    logp = torch.log_softmax(logits[0], -1)
    return [float(logp[i - 1, CHARS.index(text[i])]) for i in range(len(text) - tail, len(text))]


def test_labels_that_begin_alike_are_scored_where_they_part(spelling: Subject) -> None:
    scores = label_scores(spelling, ["dd", "ef e"], ["ab", "acf"])

    for row, prompt in enumerate(["dd", "ef e"]):
        assert float(scores[row, 0]) == pytest.approx(_token_scores(spelling, prompt + "ab", 1)[0], abs=1e-5)
        assert float(scores[row, 1]) == pytest.approx(_token_scores(spelling, prompt + "ac", 1)[0], abs=1e-5)
    assert spelling.passes < 2 * 2 + 4


@pytest.mark.parametrize("classes", [["ab", "ac", "da"], ["a", "ab"]])
def test_labels_that_part_at_several_places_are_scored_to_their_end(spelling: Subject, classes: list[str]) -> None:
    scores = label_scores(spelling, ["dd", "ef e"], classes)

    for row, prompt in enumerate(["dd", "ef e"]):
        for column, label in enumerate(classes):
            by_hand = sum(_token_scores(spelling, prompt + label, len(label)))
            assert float(scores[row, column]) == pytest.approx(by_hand, abs=1e-5)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadSetting, match="AskModel: shots=-1"):
        AskModel(shots=-1)
    with pytest.raises(BadSetting, match="'word' or 'char'"):
        BagOfNgrams(unit="letter")
    with pytest.raises(BadSetting, match="longest=0"):
        BagOfNgrams(longest=0)
    for rival in (TokenPairs, NgramBayes):
        with pytest.raises(BadSetting, match="reach=0"):
            rival(reach=0)
