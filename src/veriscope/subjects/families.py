"""Where each family of transformer keeps its parts, so that one site name means one tensor in all of them.

A row of the table is all that a new family needs, if it runs attention through transformers' interface. Which
of the sites hold true in a given model is not taken from here but checked at load (`checks.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Spot:
    """One tensor of a module: its first input or its (first) output."""

    module: str
    side: Side


@dataclass(frozen=True)
class Family:
    """Module paths; those of a block are relative to the block, the others to the base model.

    Attributes:
        blocks: The list of blocks.
        attention: The module that calls the attention function.
        project: Output projection of the attention: takes all heads' z side by side.
        attn_out: What attention adds to the residual stream.
        mid: The residual stream between attention and MLP; None where both read the same stream.
        down: Down-projection of the MLP.
        mlp_out: What the MLP adds to the residual stream.
        final_norm: What the unembedding reads; relative to `head` if `norm_in_head`.
        head: Path of the unembedding in the whole model, of which `unembed` is the last step.
        post_norms: Norms of a post-norm block: after attention, after the MLP.
        after_project: Norm between the output projection and the residual stream (Gemma 2 and 3).
        after_down: The same for the MLP.
        mlp: The whole MLP, one module that treats each position by itself; None where no module holds it alone.
        up, act: The MLP's layer whose output goes through its activation alone, and that; empty where it is gated.
    """

    blocks: str
    attention: str
    project: str
    attn_out: Spot
    mid: Spot | None
    down: str
    mlp_out: Spot
    final_norm: str | None
    head: str = "lm_head"
    unembed: str = ""
    norm_in_head: bool = False
    post_norms: tuple[str, str] | None = None
    after_project: str | None = None
    after_down: str | None = None
    mlp: str | None = "mlp"
    up: str = ""
    act: str = ""
    causal: bool = True


GPT2 = Family(
    blocks="h",
    attention="attn",
    project="attn.c_proj",
    attn_out=Spot("attn", "out"),
    mid=Spot("ln_2", "in"),
    down="mlp.c_proj",
    mlp_out=Spot("mlp", "out"),
    final_norm="ln_f",
    up="mlp.c_fc",
    act="mlp.act",
)

LLAMA = Family(
    blocks="layers",
    attention="self_attn",
    project="self_attn.o_proj",
    attn_out=Spot("self_attn", "out"),
    mid=Spot("post_attention_layernorm", "in"),
    down="mlp.down_proj",
    mlp_out=Spot("mlp", "out"),
    final_norm="norm",
)

GEMMA2 = Family(
    blocks="layers",
    attention="self_attn",
    project="self_attn.o_proj",
    attn_out=Spot("post_attention_layernorm", "out"),
    mid=Spot("pre_feedforward_layernorm", "in"),
    down="mlp.down_proj",
    mlp_out=Spot("post_feedforward_layernorm", "out"),
    final_norm="norm",
    after_project="post_attention_layernorm",
    after_down="post_feedforward_layernorm",
)


def _neox(parallel: bool) -> Family:
    return Family(
        blocks="layers",
        attention="attention",
        project="attention.dense",
        attn_out=Spot("attention", "out"),
        mid=None if parallel else Spot("post_attention_layernorm", "in"),
        down="mlp.dense_4h_to_h",
        mlp_out=Spot("mlp", "out"),
        final_norm="final_layer_norm",
        up="mlp.dense_h_to_4h",
        act="mlp.act",
    )


def _bert(head: str, norm: str | None, unembed: str) -> Family:
    return Family(
        blocks="encoder.layer",
        attention="attention.self",
        project="attention.output.dense",
        attn_out=Spot("attention.output.dense", "out"),
        mid=Spot("attention.output", "out"),
        down="output.dense",
        mlp_out=Spot("output.dense", "out"),
        final_norm=norm,
        head=head,
        unembed=unembed,
        norm_in_head=True,
        post_norms=("attention.output.LayerNorm", "output.LayerNorm"),
        mlp=None,
        causal=False,
    )


_TABLE: dict[str, Callable[[Any], Family]] = {
    "gpt2": lambda config: GPT2,
    "gpt_neox": lambda config: _neox(config.use_parallel_residual),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), lambda config: LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), lambda config: GEMMA2),
    "bert": lambda config: _bert("cls.predictions", "transform", "decoder"),
    "roberta": lambda config: _bert("lm_head", "layer_norm", "decoder"),
}


def family_of(model: nn.Module) -> Family | None:
    """The row of the table for a model, or None: it is then opened as a plain module."""
    if not isinstance(model, PreTrainedModel) or model.config.model_type not in _TABLE:
        return None
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "add_cross_attention", False):
        return None
    family = _TABLE[model.config.model_type](model.config)
    turned = not family.causal and getattr(model.config, "is_decoder", False)  # an encoder run as a decoder
    return None if turned else family


def find(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a path, or None."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def soft_cap(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What a family does to its logits after the unembedding."""
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is None:
        return lambda logits: logits
    return lambda logits: (logits / cap).tanh() * cap
