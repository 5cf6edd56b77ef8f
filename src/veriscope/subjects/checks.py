"""One name, one tensor: identities that hold in a model's own arithmetic, checked once at load on a tiny batch.

A site that breaks its identity is refused with the reason and can be neither read nor edited.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from veriscope.subjects.attention import repeat_heads
from veriscope.subjects.families import find
from veriscope.subjects.plan import Plan, plan
from veriscope.subjects.run import execute
from veriscope.subjects.sites import Read
from veriscope.subjects.transformer import Transformer, first_tensor

_RAGGED = (6, 4)

Identity = tuple[tuple[str, ...], str, Tensor, Tensor]
"""Sites that an identity vouches for, what its failure is called, and its two sides (example, position, ...)."""


def check(engine: Transformer) -> None:
    """Move every site that fails its identity from `engine.sites` to `engine.refused`."""
    todo = tiny_batch(engine)
    runs = _read_what_can_be_read(engine, todo)
    if not runs:
        return
    real = torch.arange(todo.longest, device=todo.lengths.device) < todo.lengths[:, None]
    worst = tolerance(engine)
    for number in range(len(engine.blocks)):
        for sites, words, one, other in _block(engine, runs, number):
            _refuse(engine, tuple(f"blocks.{number}.{site}" for site in sites), words, _miss(one, other, real), worst)
    if "logits" in runs:
        _check_end(engine, runs, todo, real, worst)


def _check_end(engine: Transformer, runs: dict[str, Tensor], todo: Plan, real: Tensor, worst: float) -> None:
    """The unembedding, against the final norm and against the model's own forward pass."""
    unembed = find(engine.head, engine.family.unembed) if engine.head is not None else None
    if "final_norm" in runs and unembed is not None:
        with torch.no_grad():
            out = engine.cap(unembed(runs["final_norm"]))
        words = "the unembedding of the final norm is not the logits"
        _refuse(engine, ("final_norm",), words, _miss(out, runs["logits"], real), worst)
    miss = _miss(runs["logits"], _own_logits(engine, todo), real)
    engine.head_is_true = miss <= worst
    if not engine.head_is_true:
        words = "the unembedding of the final norm is not what the model itself returns as logits"
        _refuse(engine, ("final_norm",), words, miss, worst)


def tolerance(engine: Transformer) -> float:
    """What two ways to one number may differ by, in units of the larger of 1 and the largest number."""
    dtype = next(engine.module.parameters()).dtype
    return 1e-4 if dtype == torch.float32 else 1e-8 if dtype == torch.float64 else 0.05


def tiny_batch(engine: Transformer) -> Plan:
    """Two short prompts of unequal length."""
    longest = min(_RAGGED[0], engine.context or _RAGGED[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(engine.config.vocab_size), (2, longest), generator=generator).tolist()
    tokens = [ids[0], ids[1][: min(_RAGGED[1], longest)]]
    device = next(engine.module.parameters()).device
    return plan(tokens, batch_tokens=4 * longest, fill=engine.fill, device=device)


def _read_what_can_be_read(engine: Transformer, todo: Plan) -> dict[str, Tensor]:
    """All sites in one run; where that fails or a site is not reached, one by one, refusing what fails."""
    try:
        return _read(engine, todo, list(engine.sites))
    except Exception:  # a changed architecture: find out which of the sites it breaks
        runs: dict[str, Tensor] = {}
        for name in list(engine.sites):
            try:
                runs |= _read(engine, todo, [name])
            except Exception as error:
                why = "its module was not reached in a run" if isinstance(error, AssertionError) else _words(error)
                _drop(engine, name, why)
        return runs


def _words(error: Exception) -> str:
    return f"reading it failed with {type(error).__name__}: {error}"


def _read(engine: Transformer, todo: Plan, names: list[str]) -> dict[str, Tensor]:
    reads = [Read(name) for name in names]
    run, _ = execute(engine, todo, reads=reads, edits=(), logits=None, grad=False, site=engine.sites)
    return {read.site: tensor for read, tensor in run.reads}


def _block(engine: Transformer, runs: dict[str, Tensor], number: int) -> Iterator[Identity]:
    """The identities of one block; one whose sites could not be read is passed over."""
    block, family = engine.blocks[number], engine.family
    got = {name.removeprefix(f"blocks.{number}."): tensor for name, tensor in runs.items()}
    pre, post, attn, mlp = (got.get(name) for name in ("resid_pre", "resid_post", "attn_out", "mlp_out"))
    mid = got.get("resid_mid")
    if pre is not None and post is not None and attn is not None and mlp is not None:
        if family.mid is None:
            yield ("attn_out", "mlp_out"), "pre + attention + MLP is not post", pre + attn + mlp, post
        elif mid is not None:
            norms = family.post_norms or ("", "")
            yield ("attn_out", "resid_mid"), "pre + attention is not mid", _call(block, norms[0], pre + attn), mid
            yield ("mlp_out",), "mid + MLP is not post", _call(block, norms[1], mid + mlp), post
    yield from _heads(engine, block, got)
    if "mlp.act" in got and mlp is not None:
        down = _call(block, family.after_down or "", _call(block, family.down, got["mlp.act"]))
        yield ("mlp.act",), "the down-projection of the MLP activations is not the MLP output", down, mlp
    following = runs.get(f"blocks.{number + 1}.resid_pre")
    if post is not None and following is not None:
        yield ("resid_post",), "post is not the next block's pre", post, following


def _heads(engine: Transformer, block: nn.Module, got: dict[str, Tensor]) -> Iterator[Identity]:
    pattern, value, z = got.get("heads.pattern"), got.get("heads.v"), got.get("heads.z")
    if pattern is None or value is None or z is None:
        return
    everything = ("heads.q", "heads.k", "heads.v", "heads.pattern", "heads.z")
    mixed = (pattern @ repeat_heads(value.transpose(1, 2), pattern.shape[1])).transpose(1, 2)
    sums = pattern.sum(-1).transpose(1, 2)
    yield everything, "pattern x value is not z", mixed, z
    yield everything, "the pattern's rows do not sum to 1", sums, torch.ones_like(sums)
    attn = got.get("attn_out")
    if attn is not None:
        out = _call(block, engine.family.after_project or "", _call(block, engine.family.project, z.flatten(2)))
        yield ("heads.z",), "the output projection of z is not the attention output", out, attn


def _own_logits(engine: Transformer, todo: Plan) -> Tensor:
    """The model's own forward pass, prompt by prompt, with nothing of ours in it and so without padding."""
    rows = []
    with torch.no_grad():
        for batch in todo.batches:
            for ids, length in zip(batch.ids, batch.lengths.tolist(), strict=True):
                out = engine.module(input_ids=ids[None, :length], use_cache=False).logits[0]
                rows.append(torch.nn.functional.pad(out, (0, 0, 0, todo.longest - length)))
    order = torch.cat([batch.rows for batch in todo.batches]).argsort()
    return torch.stack(rows)[order]


@torch.no_grad()
def _call(module: nn.Module, path: str, x: Tensor) -> Tensor:
    """x through a submodule; through nothing for an empty path."""
    part = find(module, path) if path else None
    return first_tensor(part(x)) if part is not None else x


def _miss(one: Tensor, other: Tensor, real: Tensor) -> float:
    """Largest difference where tokens stand, in units of the larger of 1 and the largest number compared."""
    if one.shape != other.shape:
        return float("inf")
    one, other = one[real].float(), other[real].float()
    miss = float((one - other).abs().max() / other.abs().max().clamp_min(1.0))
    return miss if miss == miss else float("inf")


def _refuse(engine: Transformer, sites: tuple[str, ...], words: str, miss: float, worst: float) -> None:
    if miss > worst:
        for site in sites:
            _drop(engine, site, f"{words} in this model (off by {miss:.2g}, allowed {worst:.0e})")


def _drop(engine: Transformer, site: str, why: str) -> None:
    if engine.sites.pop(site, None) is not None:
        engine.refused[site] = why
