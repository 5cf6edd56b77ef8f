"""Every family has the standard sites, they hold their identities, and a site that does not hold is refused."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
from torch import nn

from veriscope.errors import BadRead, UnknownSite
from veriscope.subjects import Read, WordReader, load

BLOCK = [
    "resid_pre",
    "heads.q",
    "heads.k",
    "heads.v",
    "heads.pattern",
    "heads.z",
    "attn_out",
    "resid_mid",
    "mlp.act",
    "mlp_out",
    "resid_post",
]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_standard_site_is_there_or_refused_with_a_reason(family: str) -> None:
    subject = tiny.subject(family)
    standard = ["embed", *(f"blocks.{n}.{tail}" for n in range(3) for tail in BLOCK), "final_norm", "logits"]

    missing = [name for name in standard if name not in subject.sites]

    assert subject.n_blocks == 3 and subject.d_model == 32
    assert set(missing) == set(subject.refused)
    expected = {"neox": 3, "gpt2_bare": 1, "bert_bare": 2}.get(family, 0)
    assert len(missing) == expected, subject.refused


@pytest.mark.parametrize("family", [family for family in tiny.CAUSAL if family != "neox"])
def test_the_parts_add_up_in_a_ragged_run(family: str) -> None:
    subject = tiny.subject(family)

    run = subject.run(tiny.RAGGED, read=list(subject.sites), logits="all")

    for n in range(3):
        pre, mid, post = (run[f"blocks.{n}.resid_{where}"] for where in ("pre", "mid", "post"))
        torch.testing.assert_close(pre + run[f"blocks.{n}.attn_out"], mid, atol=1e-5, rtol=0)
        torch.testing.assert_close(mid + run[f"blocks.{n}.mlp_out"], post, atol=1e-5, rtol=0)
        value, pattern = run[f"blocks.{n}.heads.v"].transpose(1, 2), run[f"blocks.{n}.heads.pattern"]
        mixed = pattern @ value.repeat_interleave(4 // value.shape[1], dim=1)
        torch.testing.assert_close(mixed.transpose(1, 2), run[f"blocks.{n}.heads.z"], atol=1e-5, rtol=0)
    assert torch.equal(run["logits"], run.logits)
    assert torch.equal(run["embed"], run["blocks.0.resid_pre"])


def test_parallel_attention_and_mlp_add_up_and_have_no_middle() -> None:
    subject = tiny.subject("neox")

    run = subject.run(tiny.RAGGED, read=list(subject.sites))

    parts = run["blocks.1.resid_pre"] + run["blocks.1.attn_out"] + run["blocks.1.mlp_out"]
    torch.testing.assert_close(parts, run["blocks.1.resid_post"], atol=1e-5, rtol=0)
    with pytest.raises(UnknownSite, match=r"resid_mid.*side by side"):
        subject.run(["w1"], read=["blocks.1.resid_mid"])


def test_a_bert_block_is_post_norm() -> None:
    subject = tiny.subject("bert")
    layer = subject.module.bert.encoder.layer[1]

    run = subject.run(["w1 w2 w3"], read=list(subject.sites))

    pre, mid, post = (run[f"blocks.1.resid_{where}"] for where in ("pre", "mid", "post"))
    torch.testing.assert_close(layer.attention.output.LayerNorm(pre + run["blocks.1.attn_out"]), mid)
    torch.testing.assert_close(layer.output.LayerNorm(mid + run["blocks.1.mlp_out"]), post)
    torch.testing.assert_close(subject.module.cls.predictions.decoder(run["final_norm"]), run["logits"])


def test_sites_agree_with_what_transformers_itself_puts_out() -> None:
    module = tiny.build("gpt2")
    module.config._attn_implementation = "eager"
    ids = torch.tensor([[4, 2, 3, 9, 11]])
    with torch.no_grad():
        theirs = module(ids, output_hidden_states=True, output_attentions=True)

    subject = load(module, tokenizer=WordReader(tiny.WORDS))
    run = subject.run(["w4 w2 w3 w9 w11"], read=list(subject.sites), logits="all")

    for n in range(3):
        torch.testing.assert_close(run[f"blocks.{n}.resid_pre"], theirs.hidden_states[n], atol=1e-5, rtol=0)
        torch.testing.assert_close(run[f"blocks.{n}.heads.pattern"], theirs.attentions[n], atol=1e-5, rtol=0)
    torch.testing.assert_close(run["final_norm"], theirs.hidden_states[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(run.logits, theirs.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_a_sliding_window_hides_the_far_past(family: str) -> None:
    subject = tiny.subject(family)

    pattern = subject.run([tiny.RAGGED[1]], read=["blocks.0.heads.pattern"])["blocks.0.heads.pattern"]

    far = torch.ones(9, 9).tril(-4).bool()
    assert pattern[..., far].abs().max() == 0
    assert pattern[..., torch.eye(9).bool()].min() > 0


def test_grouped_heads_keep_their_own_keys_and_values() -> None:
    run = tiny.subject("llama").run(["w1 w2"], read=["blocks.0.heads.q", "blocks.0.heads.k"])

    assert run["blocks.0.heads.q"].shape == (1, 2, 4, 8)
    assert run["blocks.0.heads.k"].shape == (1, 2, 2, 8)


def test_what_a_read_keeps() -> None:
    subject = tiny.subject("gpt2")
    here, there = Read("blocks.1.heads.z", "last", units=(2,)), Read("blocks.1.heads.z", [0, 3, 1, 2])

    run = subject.run(tiny.RAGGED, read=[here, there, "blocks.1.heads.z"])

    whole = run.reads[2][1]
    assert torch.equal(run.mask.sum(1), torch.tensor([3, 9, 2, 7]))
    assert whole.shape == (4, 9, 4, 8) and (whole[0, 3:] == 0).all()
    assert torch.equal(run[here], torch.stack([whole[0, 2], whole[1, 8], whole[2, 1], whole[3, 6]])[:, [2]])
    assert torch.equal(run[there], torch.stack([whole[0, 0], whole[1, 3], whole[2, 1], whole[3, 2]]))
    assert run.logits is None
    with pytest.raises(BadRead, match=r"read 3 times"):
        run["blocks.1.heads.z"]
    with pytest.raises(BadRead, match=r"embed was not read.*kept blocks.1.heads.z"):
        run["embed"]


def test_nothing_behind_the_last_read_is_computed() -> None:
    subject = tiny.subject("gpt2")
    reached = []
    hook = subject.module.transformer.h[1].register_forward_hook(lambda *_: reached.append(1))
    try:
        early = subject.run(["w1 w2"], read=["blocks.0.resid_post"])["blocks.0.resid_post"]
        stopped = len(reached)
        late = subject.run(["w1 w2"], read=["blocks.0.resid_post"], logits="last")["blocks.0.resid_post"]
    finally:
        hook.remove()

    assert stopped == 0 and len(reached) == 1
    assert torch.equal(early, late)


def test_hooks_are_off_after_a_run_that_fails() -> None:
    subject = load(tiny.build("gpt2"), tokenizer=WordReader(tiny.WORDS))
    subject.module.transformer.h[2].mlp.c_proj.register_forward_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        subject.run(["w1"], read=["blocks.0.resid_post", "blocks.1.mlp.act"], logits="last")

    kept = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in subject.module.modules()]
    assert sum(kept) == 1


def test_a_block_that_adds_something_more_has_its_sites_refused() -> None:
    module = tiny.build("gpt2")
    norm = module.transformer.h[1].ln_2
    norm.register_forward_pre_hook(lambda _, args: args[0].add_(0.5))  # an adapter that writes into the stream

    subject = load(module, tokenizer=WordReader(tiny.WORDS), name="adapted")

    assert set(subject.refused) == {"blocks.1.attn_out", "blocks.1.resid_mid"}
    assert "pre + attention is not mid" in subject.refused["blocks.1.attn_out"]
    assert "blocks.0.attn_out" in subject.sites and "blocks.1.mlp_out" in subject.sites
    with pytest.raises(UnknownSite, match=r"adapted has no site 'blocks.1.attn_out'.*refused.*not mid"):
        subject.acts(["w1"], "blocks.1.attn_out")


def test_a_second_output_scale_takes_the_final_norm_away_but_not_the_logits() -> None:
    module = tiny.build("llama")
    whole = module.forward
    module.forward = lambda *args, **kwargs: _scaled(whole(*args, **kwargs))

    subject = load(module, tokenizer=WordReader(tiny.WORDS))
    run = subject.run(tiny.RAGGED, logits="last")

    assert "final_norm" in subject.refused and "returns as logits" in subject.refused["final_norm"]
    plain = tiny.subject("llama").run(tiny.RAGGED, logits="last").logits
    torch.testing.assert_close(run.logits, 2 * plain, atol=1e-4, rtol=0)


def _scaled(output: object) -> object:
    output.logits = 2 * output.logits
    return output


def test_an_mlp_that_lost_its_down_projection_is_refused() -> None:
    module = tiny.build("llama")
    module.model.layers[2].mlp = _Gate()

    subject = load(module, tokenizer=WordReader(tiny.WORDS))

    assert "blocks.2.mlp.act" not in subject.sites and "blocks.1.mlp.act" in subject.sites
    assert "blocks.2.mlp_out" in subject.sites


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x).sigmoid()


def test_an_unknown_site_names_its_nearest() -> None:
    with pytest.raises(UnknownSite, match=r"Did you mean 'blocks.1.resid_post'.*veriscope sites gpt2"):
        tiny.subject("gpt2").run(["w1"], read=["blocks.1.resid_pst"])
