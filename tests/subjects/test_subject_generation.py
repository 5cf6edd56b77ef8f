"""Continuations agree with unbatched ones and with transformers' own, and edits hold while they are made."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch

from veriscope.errors import BadPrompt, NotAvailable
from veriscope.subjects import Add, Edit, SetTo, Subject, WordReader, Zero, load

TEXTS = tiny.RAGGED


def plain_loop(subject: Subject, text: str, steps: int, edits: list[Edit]) -> list[int]:
    """The slow way: run everything anew for each token, edits at fixed positions of the prompt."""
    new: list[int] = []
    for _ in range(steps):
        whole = " ".join([text, *(f"w{token}" for token in new)])
        new.append(int(subject.run([whole], edits=edits, logits="last").logits[0].argmax()))
    return new


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_batched_generation_agrees_with_transformers_one_by_one(family: str) -> None:
    module = tiny.build(family)
    module.config._attn_implementation = "eager"
    theirs = []
    for text in TEXTS:
        ids = torch.tensor([[int(word[1:]) for word in text.split()]])
        out = module.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
        theirs.append(out[0, ids.shape[1] :].tolist())

    ours = load(module, tokenizer=WordReader(tiny.WORDS)).generate_ids(TEXTS, max_new_tokens=8)

    assert ours == theirs


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox"])
@pytest.mark.parametrize("site", ["blocks.1.resid_post", "blocks.1.mlp.act", "blocks.1.heads.k", "blocks.1.heads.z"])
@pytest.mark.parametrize("at", ["all", "last", 1])
def test_edits_hold_in_generation(family: str, site: str, at: str | int) -> None:
    subject = tiny.subject(family)
    width = subject.sites[site].size
    how = SetTo(torch.randn(width, generator=torch.Generator().manual_seed(1)).mul(2))

    got = subject.generate_ids(TEXTS, max_new_tokens=6, edits=[Edit(site, how, at=at)])

    for text, new in zip(TEXTS, got, strict=True):
        place = len(text.split()) - 1 if at == "last" else at
        assert new == plain_loop(subject, text, 6, [Edit(site, how, at=place)])
    if at == "all" and site.endswith("resid_post"):
        assert got != subject.generate_ids(TEXTS, max_new_tokens=6)


def test_each_prompt_keeps_its_own_edit_in_generation() -> None:
    subject = tiny.subject("llama")
    values = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 3

    got = subject.generate_ids(TEXTS, max_new_tokens=5, edits=[Edit("blocks.0.resid_post", Add(values))])

    for number, text in enumerate(TEXTS):
        own = [Edit("blocks.0.resid_post", Add(values[number]))]
        assert got[number] == plain_loop(subject, text, 5, own)


def test_sampling_is_seeded_and_does_not_depend_on_neighbours() -> None:
    subject = tiny.subject("gpt2")

    one = subject.generate(TEXTS, max_new_tokens=6, temperature=1.0, seed=1)

    assert one == subject.generate(TEXTS, max_new_tokens=6, temperature=1.0, seed=1)
    assert one == subject.generate(TEXTS, max_new_tokens=6, temperature=1.0, seed=1, batch_tokens=1)
    assert one != subject.generate(TEXTS, max_new_tokens=6, temperature=1.0, seed=2)


def test_sampled_tokens_follow_the_models_probabilities() -> None:
    subject = tiny.subject("gpt2")
    shares = subject.run([TEXTS[0]], logits="last").logits[0].softmax(-1)

    drawn = torch.tensor(subject.generate_ids([TEXTS[0]] * 1500, max_new_tokens=1, temperature=1.0, seed=0)).flatten()

    counts = torch.bincount(drawn, minlength=tiny.VOCAB) / 1500
    assert (counts - shares).abs().max() < 0.05


def test_the_end_token_ends_a_text() -> None:
    module = tiny.build("gpt2")
    first = tiny.subject("gpt2").generate_ids(TEXTS, max_new_tokens=4)
    module.generation_config.eos_token_id = first[1][1]

    got = load(module, tokenizer=WordReader(tiny.WORDS)).generate_ids(TEXTS, max_new_tokens=4)

    assert got[1] == first[1][: first[1].index(first[1][1])]


def test_a_plain_module_continues_too() -> None:
    subject = load(tiny.Bigrams(), tokenizer=WordReader(tiny.WORDS))

    plain = subject.generate(TEXTS, max_new_tokens=4)
    edited = subject.generate_ids(TEXTS, max_new_tokens=4, edits=[Edit("mix", Zero(), at="last")])

    assert plain == [subject.generate([text], max_new_tokens=4)[0] for text in TEXTS]
    assert edited[2] == plain_loop(subject, TEXTS[2], 4, [Edit("mix", Zero(), at=1)])


def test_what_can_not_be_generated_says_so() -> None:
    with pytest.raises(NotAvailable, match="sees what stands behind"):
        tiny.subject("bert").generate(["w1"], max_new_tokens=2)
    with pytest.raises(NotAvailable, match="without an unembedding"):
        tiny.subject("gpt2_bare").generate(["w1"], max_new_tokens=2)
    with pytest.raises(BadPrompt, match=r"takes 33 tokens, but gpt2 has a context of 32"):
        tiny.subject("gpt2").generate(["w1 w2"], max_new_tokens=32)
