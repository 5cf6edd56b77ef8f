"""Padding never changes a result: ragged batches agree with single runs, in every family, at every site."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch

from veriscope.subjects import Edit, Read, SetTo, WordReader, load


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_ragged_batch_agrees_with_single_runs(family: str) -> None:
    subject = tiny.subject(family)
    every = [*subject.sites]
    logits = "all" if subject.has_logits else None

    together = subject.run(tiny.RAGGED, read=every, logits=logits)

    for number, text in enumerate(tiny.RAGGED):
        alone = subject.run([text], read=every, logits=logits)
        length = len(text.split())
        for name, site in subject.sites.items():
            mine, own = together[name][number], alone[name][0]
            mine = mine[:, :length, :length] if site.width is None else mine[:length]
            scale = float(own.abs().max().clamp_min(1.0))
            torch.testing.assert_close(mine, own, atol=1e-5 * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bert"])
def test_one_position_is_the_same_whatever_the_batches(family: str) -> None:
    subject = tiny.subject(family)
    read = [Read("blocks.1.resid_post", "last"), Read("blocks.2.mlp.act", [-1, 4, 0, -2])]

    whole = subject.run(tiny.RAGGED, read=read, logits="last")
    singly = subject.run(tiny.RAGGED, read=read, logits="last", batch_tokens=1)
    backward = subject.run(tiny.RAGGED[::-1], read=[read[0]], logits="last")

    for entry in read:
        torch.testing.assert_close(whole[entry], singly[entry], atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.logits, singly.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[read[0]], backward[read[0]].flip(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_is_kept_of_few_positions_is_what_all_positions_hold(family: str) -> None:
    """Then the last MLP is run at these positions only."""
    subject = tiny.subject(family)
    last = max(n for n in range(9) if f"blocks.{n}.resid_post" in subject.sites)
    top, below = f"blocks.{last}.resid_post", f"blocks.{last - 1}.resid_post"
    edits = [Edit(below, SetTo(torch.randn(32, generator=torch.Generator().manual_seed(1))), at=1)]
    logits = subject.has_logits

    few = subject.run(tiny.RAGGED, read=[Read(top, 1)], edits=edits, logits="last" if logits else None)
    all_of_them = subject.run(tiny.RAGGED, read=[top], edits=edits, logits="all" if logits else None)
    early = subject.run(tiny.RAGGED, read=[Read(below, -2)])
    all_early = subject.run(tiny.RAGGED, read=[below])

    ends = [len(text.split()) - 1 for text in tiny.RAGGED]
    torch.testing.assert_close(few[top], all_of_them[top][:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(early[below], all_early[below][range(4), [e - 1 for e in ends]], atol=1e-5, rtol=0)
    if logits:
        torch.testing.assert_close(few.logits, all_of_them.logits[range(4), ends], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "bert"])
def test_each_prompt_gets_its_own_edit_whatever_the_order(family: str) -> None:
    subject = tiny.subject(family)
    values = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))

    together = subject.run(tiny.RAGGED, edits=[Edit("blocks.0.resid_post", SetTo(values), at="last")], logits="last")

    for number, text in enumerate(tiny.RAGGED):
        edit = Edit("blocks.0.resid_post", SetTo(values[number]), at="last")
        alone = subject.run([text], edits=[edit], logits="last")
        torch.testing.assert_close(together.logits[number], alone.logits[0], atol=1e-5, rtol=0)


class _Forgetful(tiny.BagOfWords):
    """Takes a mask and forgets it."""


def test_a_plain_module_whose_mask_does_nothing_is_run_in_equal_lengths() -> None:
    subject = load(_Forgetful(), tokenizer=WordReader(tiny.WORDS))

    together = subject.run(tiny.RAGGED, logits="last").logits

    alone = torch.cat([subject.run([text], logits="last").logits for text in tiny.RAGGED])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
