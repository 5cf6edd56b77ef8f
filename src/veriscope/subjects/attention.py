"""One attention function for every family, so that query, key, value, pattern and z mean the same everywhere.

It is registered with transformers under the name "veriscope". Where a run taps an attention module, the
product is laid open; everywhere else the fast kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from veriscope.subjects.taps import Taps

NAME = "veriscope"
PARTS = ("q", "k", "v", "pattern", "z")

_Tapped = Mapping[nn.Module, Mapping[str, str]]
_tapped: ContextVar[tuple[Taps, _Tapped] | None] = ContextVar("tapped", default=None)

Instead = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, float | None, float | None], Tensor]
"""(module, query, key, value, mask, scaling, soft cap) to z, heads on axis 1 going in and on axis 2 coming out."""

_instead: ContextVar[Instead | None] = ContextVar("instead", default=None)


@contextmanager
def tapping(taps: Taps, modules: _Tapped) -> Iterator[None]:
    """Lay the attention of these modules open: module -> {"z": "blocks.3.heads.z", ...}."""
    token = _tapped.set((taps, modules))
    try:
        yield
    finally:
        _tapped.reset(token)


@contextmanager
def attending(instead: Instead) -> Iterator[None]:
    """Let another function stand for attention in every module."""
    token = _instead.set(instead)
    try:
        yield
    finally:
        _instead.reset(token)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: heads on axis 1 going in, on axis 2 coming out."""
    instead = _instead.get()
    if instead is not None:
        return instead(module, query, key, value, attention_mask, scaling, softcap), None
    active = _tapped.get()
    parts = active[1].get(module) if active is not None else None
    if active is None or parts is None:
        if softcap is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return _plain(module, query, key, value, attention_mask, scaling, softcap, kwargs.get("is_causal"))
    taps = active[0]
    query = _reach(taps, parts.get("q"), query)
    # Keys and values hold the whole past, cached before any edit: each step edits all of their slots anew.
    key = _reach(taps, parts.get("k"), key, slot=0)
    value = _reach(taps, parts.get("v"), value, slot=0)
    pattern: Tensor | None = None
    if "pattern" in parts or softcap is not None:
        pattern = weights(module, query, key, attention_mask, scaling, softcap, kwargs.get("is_causal"))
        pattern = _reach(taps, parts.get("pattern"), pattern)
        out = (pattern @ repeat_heads(value, query.shape[1])).transpose(1, 2)
    else:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if "z" in parts:
        out = taps.reach(parts["z"], out)
    return out.contiguous(), pattern


def weights(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    is_causal: bool | None,
) -> Tensor:
    """The attention pattern, (row, head, query, key), rows summing to 1."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ repeat_heads(key, query.shape[1]).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    return shares(scores)


def shares(scores: Tensor) -> Tensor:
    """Softmax over the keys, in float32 at least, as transformers has it."""
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Give every query head its own copy of the key or value head that it shares with its neighbours."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    is_causal: bool | None,
) -> tuple[Tensor, Tensor]:
    """Soft-capped scores: no fast kernel offers them."""
    pattern = weights(module, query, key, mask, scaling, softcap, is_causal)
    return (pattern @ repeat_heads(value, query.shape[1])).transpose(1, 2).contiguous(), pattern


def _reach(taps: Taps, name: str | None, x: Tensor, slot: int | None = None) -> Tensor:
    """Pass (row, head, slot, *) through a tap, which wants (row, slot, head, *)."""
    return x if name is None else taps.reach(name, x.transpose(1, 2), slot).transpose(1, 2)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
