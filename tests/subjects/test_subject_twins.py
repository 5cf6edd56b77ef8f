"""Twins keep the architecture and the scale, and nothing else."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch

from veriscope.errors import UserError
from veriscope.subjects import WordReader, load


@pytest.mark.parametrize("family", ["gpt2", "llama_tied", "bert"])
@pytest.mark.parametrize("kind", ["random", "permuted"])
def test_a_twin_keeps_every_tensors_mean_and_norm(family: str, kind: str) -> None:
    subject = tiny.subject(family)
    before = subject.hash

    twin = subject.twin(kind, seed=1)

    mine, theirs = dict(subject.module.named_parameters()), dict(twin.module.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        other = theirs[name]
        torch.testing.assert_close(other.norm(), weight.norm(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other.mean(), weight.mean(), atol=1e-5, rtol=1e-3)
        assert not torch.equal(other, weight), name
        same_entries = torch.equal(other.flatten().sort().values, weight.flatten().sort().values)
        assert same_entries == (kind == "permuted" or "norm" in name.lower() or "ln_" in name), name
    assert subject.hash == before == tiny.load(subject.module, tokenizer=subject.reader.tokenizer).hash
    assert list(twin.sites) == list(subject.sites)


def test_twins_are_seeded_and_say_what_they_are() -> None:
    subject = tiny.subject("gpt2")

    hashes = {subject.twin(kind, seed).hash for kind in ("random", "permuted") for seed in (0, 1)}

    assert len(hashes | {subject.hash}) == 5
    assert subject.twin("random", 0).hash == subject.twin("random", 0).hash
    assert subject.twin("random", 3).name == "gpt2 (random twin, seed 3)"
    with pytest.raises(UserError, match=r"'shuffled' is no kind of twin: use 'random' or 'permuted'"):
        subject.twin("shuffled", 0)


def test_what_a_model_knows_is_gone_from_its_twins() -> None:
    module = tiny.Bigrams()
    with torch.no_grad():
        module.mix.weight.zero_()
        module.mix.weight[:, :8] = 3 * torch.eye(8)
        module.out.weight.copy_(module.words.weight)  # says the same word again
        module.out.bias.zero_()
    subject = load(module, tokenizer=WordReader(tiny.WORDS))
    texts = list(tiny.WORDS)

    def repeats(of: object) -> float:
        return float((of.run(texts, logits="last").logits.argmax(-1) == torch.arange(50)).float().mean())

    assert repeats(subject) > 0.3
    assert repeats(subject.twin("random", 0)) < 0.15 and repeats(subject.twin("permuted", 0)) < 0.15
