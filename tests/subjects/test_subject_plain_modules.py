"""Any module exposes its submodules' outputs by path, as far as they have one row for each example."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
import transformers as hf
from torch import nn

from veriscope.errors import BadPosition, BadRead, CannotLoad, NotRun, UnknownSite
from veriscope.subjects import Add, CharReader, Edit, Read, SetTo, Swap, WordReader, load


def test_sites_are_paths_with_axes() -> None:
    subject = load(tiny.Bigrams(), tokenizer=WordReader(tiny.WORDS))

    run = subject.run(tiny.RAGGED, read=["words", Read("mix", "last")], logits="all")

    assert {name: site.axes for name, site in subject.sites.items()} == {
        "words": ("example", "position", "width"),
        "mix": ("example", "position", "width"),
        "out": ("example", "position", "width"),
        "logits": ("example", "position", "vocab"),
    }
    assert (subject.causal, subject.context, subject.d_model, subject.n_blocks) == (True, 16, 8, 0)
    assert run["words"].shape == (4, 9, 8) and run["mix"].shape == (4, 8) and run.logits.shape == (4, 9, 50)
    assert torch.equal(run["words"][2, :2], subject.module.words.weight[torch.tensor([9, 2])])
    assert subject.vocab_size == 50 and len(subject.hash) == 64


def test_a_module_with_one_row_for_each_prompt() -> None:
    subject = load(tiny.BagOfWords(), tokenizer=WordReader(tiny.WORDS))

    run = subject.run(tiny.RAGGED, read=["body.1"], edits=[Edit("body.1", SetTo(torch.ones(6)))], logits="last")

    assert subject.sites["body.1"].axes == ("example", "width")
    assert subject.sites["logits"].axes == ("example", "vocab")
    assert (run["body.1"] == 1).all() and run.logits.shape == (4, 3)
    assert "not called" in subject.refused["unused"]
    assert subject.acts(tiny.RAGGED, "body.1").shape == (4, 6)
    with pytest.raises(BadRead, match="one row of logits for each prompt"):
        subject.run(tiny.RAGGED, logits="all")
    with pytest.raises(BadPosition, match="has no position axis"):
        subject.run(tiny.RAGGED, edits=[Edit("body.1", Add(1.0), at=1)])
    with pytest.raises(UnknownSite, match=r"'unused'.*not called in a run"):
        subject.run(tiny.RAGGED, read=["unused"])


class Recurrent(nn.Module):
    """Tuples, a module used twice, attention over the length, and a plain list as output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(27, 8)
        self.cell = nn.LSTM(8, 12, batch_first=True)
        self.twice = nn.Linear(12, 12)
        self.scores = _Scores()
        self.read_out = nn.Linear(12, 27)

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.twice(self.twice(self.cell(self.letters(input_ids))[0]))
        self.scores(states)
        return {"logits": self.read_out(states)}


class _Scores(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(1, 2)


def test_tuples_are_read_and_odd_outputs_refused() -> None:
    subject = load(Recurrent(), tokenizer=CharReader("abcdefghijklmnopqrstuvwxyz "))
    texts = ["the cat sat", "a dog", "hens"]
    plain = subject.run(texts, read=["cell"], logits="last")

    assert plain["cell"].shape == (3, 11, 12)
    assert "more than once" in subject.refused["twice"]
    assert "changes with the length" in subject.refused["scores"]
    same = subject.run(texts, edits=[Edit("cell", Swap(plain["cell"]))], logits="last").logits
    other = subject.run(texts, edits=[Edit("cell", Add(1.0))], logits="last").logits
    torch.testing.assert_close(same, plain.logits)
    assert (other - plain.logits).abs().max() > 1e-3
    assert subject.answer_ids(["the c"], ["at"]).tolist() == [0]
    assert len(subject.generate(["the c"], max_new_tokens=3)[0]) == 3


def test_a_model_of_an_unknown_family_is_opened_as_a_plain_module() -> None:
    torch.manual_seed(0)
    config = hf.OPTConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
    )
    subject = load(hf.OPTForCausalLM(config), tokenizer=WordReader(tiny.WORDS))
    site = "model.decoder.layers.1"

    together = subject.run(tiny.RAGGED, read=[Read(site, "last")], logits="last")

    assert subject.causal and subject.context == 32
    for number, text in enumerate(tiny.RAGGED):
        alone = subject.run([text], read=[Read(site, "last")], logits="last")
        torch.testing.assert_close(together[site][number], alone[site][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.logits[number], alone.logits[0], atol=1e-5, rtol=0)


class TwoTokens(nn.Module):
    """Takes prompts of exactly two tokens, as a model of modular addition does."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4)
        self.out = nn.Linear(8, 50)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(input_ids).flatten(1))


def test_a_module_for_one_length_only() -> None:
    subject = load(TwoTokens(), tokenizer=WordReader(tiny.WORDS))

    assert subject.sites["words"].axes == ("example", "position", "width")
    assert subject.run(["w1 w2", "w3 w4"], logits="last").logits.shape == (2, 50)


def test_a_module_that_does_not_run_says_why() -> None:
    with pytest.raises(CannotLoad, match=r"Linear could not be run on token ids.*must take input_ids"):
        load(nn.Linear(3, 3), tokenizer=WordReader(tiny.WORDS))


def test_no_embedding_is_no_number() -> None:
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(50, 50)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.out(nn.functional.one_hot(input_ids, 50).float())

    found = load(OneHot(), tokenizer=WordReader(tiny.WORDS)).embedding(["w1"])

    assert isinstance(found, NotRun) and "no token embedding" in found.reason


def test_twins_of_plain_modules_run() -> None:
    subject = load(tiny.Bigrams(), tokenizer=WordReader(tiny.WORDS))

    twin = subject.twin("random", 0)

    assert list(twin.sites) == list(subject.sites) and twin.hash != subject.hash
    assert not torch.allclose(twin.acts(["w1 w2"], "mix"), subject.acts(["w1 w2"], "mix"))
