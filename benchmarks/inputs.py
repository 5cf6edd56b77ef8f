"""The same weights and tokens for every contestant: written once, read by each worker in its own environment."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VERSION = "2"  # of what `write` makes: raise it when that changes
SHAPES = {"gpt2": (768, 12, 12, 50257), "tiny": (64, 3, 4, 500)}  # width, layers, heads, vocabulary
COMMON = 500  # tokens are drawn from the first so many words


@dataclass(frozen=True)
class Inputs:
    """What `write` has left in a folder."""

    folder: Path

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def model(self, shape: str = "gpt2", **settings: Any) -> Any:
        """The transformers model, in evaluation mode; its weights ask for no gradient, which spares peers that work."""
        import transformers

        found = transformers.GPT2LMHeadModel.from_pretrained(self.folder / shape, **settings)
        return found.eval().requires_grad_(False)


def write(folder: Path) -> Inputs:
    """Make models and inputs from seeds, unless they are there."""
    done = folder / "version"
    if not (done.exists() and done.read_text() == VERSION):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        models = {shape: _model(shape) for shape in SHAPES}
        for shape, model in models.items():
            model.save_pretrained(folder / shape)
        save_file(_tensors(models["gpt2"]), folder / "inputs.safetensors")
        done.write_text(VERSION)
    return Inputs(folder)


def _model(shape: str) -> Any:
    import transformers

    torch.manual_seed(0)
    width, layers, heads, vocab = SHAPES[shape]
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, vocab_size=vocab, **ends)
    return transformers.GPT2LMHeadModel(config).eval()


def _tensors(model: Any) -> dict[str, Tensor]:
    found = {"W1": _tokens(64, 128, 7), "W4": _tokens(1, 400, 3)[0], "W8": _tokens(64, 20, 4), "W9": _tokens(32, 20, 6)}
    for name, pairs in (("W2", 1), ("W3", 32), ("W7", 4)):
        found |= {f"{name} clean": _tokens(pairs, 15, 1), f"{name} other": _tokens(pairs, 15, 2)}
    found["W2 source"] = _inputs_of(model, [block for block in model.transformer.h], found["W2 other"])
    found["W3 source"] = _inputs_of(model, [block.attn.c_proj for block in model.transformer.h], found["W3 other"])
    found |= {"W8 axes": _axes(200, SHAPES["gpt2"][0]), "W9 axes": _axes(500, SHAPES["tiny"][0])}
    return found


def _tokens(count: int, length: int, seed: int) -> Tensor:
    return torch.randint(COMMON, (count, length), generator=torch.Generator().manual_seed(seed))


def _axes(count: int, width: int) -> Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(5))
    return nn.functional.normalize(drawn, dim=1)


@torch.no_grad()
def _inputs_of(model: Any, modules: list[Any], ids: Tensor) -> Tensor:
    """What goes into each module in a plain run: (module, text, token, width)."""
    kept: list[Tensor] = []
    handles = [module.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone())) for module in modules]
    model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


def probe_data(site: int) -> tuple[Tensor, Tensor, Tensor]:
    """4,000 standardised activations of width 768 with the falling spectrum of a residual stream, labels and folds.

    Returns:
        (example, width), 0 or 1 for each example, and (fold, example), True where the fold trains.
    """
    make = torch.Generator().manual_seed(100 + site)
    n, width = 4000, 768
    spread = torch.arange(1, width + 1).float().pow(-0.5)
    mix = torch.linalg.qr(torch.randn(width, width, generator=make)).Q
    x = (torch.randn(n, width, generator=make) * spread) @ mix
    x = (x - x.mean(0)) / x.std(0)
    planted = x @ torch.randn(width, generator=make) / width**0.5
    y = (planted + 0.5 * planted.std() * torch.randn(n, generator=make) > 0).long()
    fold = torch.randperm(n, generator=make) % 5
    return x, y, torch.stack([fold != k for k in range(5)])


def objective(x: Tensor, y: Tensor, train: Tensor, weights: Tensor, penalty: float) -> float:
    """Summed log-loss over the training rows + penalty / 2 |w|^2, the intercept (last) free, in double precision."""
    w = weights.double()
    score = x[train].double() @ w[:-1] + w[-1]
    loss = nn.functional.softplus(torch.where(y[train] == 1, -score, score)).sum()
    return float(loss + penalty / 2 * w[:-1].square().sum())
