"""Models of the same architecture with nothing to find in them: what a finding must do better than.

Random twins keep each tensor's mean and norm exactly; permuted twins keep its very entries. Gains and biases of
norms are shuffled in both, so that activations keep their scale. Idea: "Sanity Checks for Saliency Maps" (2018)
and the dead salmon of "Neural Correlates of Interspecies Perspective Taking" (2010).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from veriscope.errors import UserError

Kind = Literal["random", "permuted"]


def twin_of(module: nn.Module, kind: str, seed: int) -> nn.Module:
    """A copy of a module with new weights; tied weights stay tied, the original is left alone.

    Args:
        module: The model.
        kind: "random": Gaussian entries with each tensor's own mean and norm; "permuted": its entries shuffled.
        seed: The same seed gives the same twin on every machine of one torch version.
    """
    if kind not in ("random", "permuted"):
        raise UserError(f"'{kind}' is no kind of twin: use 'random' or 'permuted'.")
    twin = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    of_norms = {
        id(weight)
        for part in twin.modules()
        if "norm" in type(part).__name__.lower()
        for weight in part.parameters(recurse=False)
    }
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.numel() < 2 or not weight.is_floating_point():
                continue
            draw = _shuffled if kind == "permuted" or id(weight) in of_norms else _gaussian
            weight.copy_(draw(weight.detach().cpu(), generator))
    return twin


def _shuffled(weight: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
    return weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)


def _gaussian(weight: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Draws brought to exactly this tensor's mean and spread, and so to its norm."""
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    drawn = (drawn - drawn.mean()) / drawn.std(correction=0)
    wide = weight.double()
    return (drawn * wide.std(correction=0) + wide.mean()).to(weight.dtype)
