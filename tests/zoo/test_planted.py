"""Bed P1 does what its truth table says: on the weights, and on texts run through the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from veriscope.subjects import Subject
from veriscope.zoo.planted import (
    ANSWERS,
    DIGITS,
    FEATURES,
    LEAKED,
    SECOND,
    UNUSED,
    USED,
    Planted,
    bits_of_gap,
    gap_of_bits,
    self_test,
)

BED = Planted(seed=3, bits=0.4, rows=400)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return BED.subject()


@pytest.mark.parametrize("seed", range(4))
def test_the_head_reads_what_it_should_and_nothing_else(seed: int) -> None:
    found = self_test(Planted(seed=seed, bits=0.4, rows=2_000))

    assert found[USED] > found[SECOND] > 1
    assert found[UNUSED] < 1e-6 and found[LEAKED] < 1e-6
    assert found["bits"] == pytest.approx(0.4, rel=0.15)


@pytest.mark.parametrize("bits", [0.05, 0.2, 0.4])
def test_the_dial_is_the_inverse_of_the_information(bits: float) -> None:
    assert bits_of_gap(gap_of_bits(bits)) == pytest.approx(bits, abs=1e-6)
    assert gap_of_bits(0.0) == 0.0


def flipped(feature: str) -> tuple[list[str], list[str]]:
    """Texts, and the same with other digits: of all triples one that differs in this feature alone."""
    by_values: dict[tuple[int, ...], int] = {}
    for triple in range(DIGITS**3):
        by_values.setdefault(tuple(BED.bit(f, triple) for f in FEATURES), triple)
    before, after = [], []
    for row in BED.table()[:150]:
        triple = int(row["triple"].split()[1])
        values = [BED.bit(f, triple) for f in FEATURES]
        values[FEATURES.index(feature)] ^= 1
        partner = by_values[tuple(values)]
        digits = [f"{c}{partner // DIGITS**k % DIGITS}" for k, c in enumerate("abc")]
        before.append(row["text"])
        after.append(" ".join([*digits, *row["text"].split()[3:]]))
    return before, after


def answers(subject: Subject, texts: list[str]) -> Any:
    logits = subject.run(texts, logits="last").logits
    assert logits is not None
    return logits[:, [BED.vocab[w] for w in ANSWERS]]


@pytest.mark.parametrize("feature, used", [(USED, True), (UNUSED, False), (LEAKED, False)])
def test_flipping_a_feature_in_the_text_moves_the_answer_only_if_it_is_used(
    subject: Subject, feature: str, used: bool
) -> None:
    before, after = (answers(subject, texts) for texts in flipped(feature))

    if used:
        assert (before.argmax(-1) != after.argmax(-1)).float().mean() > 0.5
    else:
        assert torch.allclose(before, after, atol=1e-5)


def test_the_answer_column_is_the_used_feature_and_the_null_label_is_nothing() -> None:
    rows = BED.table()

    assert all((row["answer"] == "yes") == (row[USED] == "1") for row in rows)
    assert all(f"leak{row[LEAKED]}" in row["text"].split() for row in rows)
    assert 0.4 < sum(row["null"] == row[USED] for row in rows) / len(rows) < 0.6


def test_one_seed_gives_one_bed() -> None:
    assert Planted(seed=3, bits=0.4, rows=400).table() == BED.table()
    assert BED.examples(USED).hash != Planted(seed=4, bits=0.4, rows=400).examples(USED).hash
