"""The linear layers of a model's blocks, laid out once for the processor's own kernels, with GELU in the same pass.

oneDNN multiplies by a matrix that it has laid out itself about an eighth faster than by one as PyTorch keeps it, and
can put the GELU on while a piece of the product is still in the cache, where going over it again costs up to half as
much as the product. The modules stay where they are, hooks and all: for the time of a large run their `forward` is
replaced. Each replacement is compared with its module on random input first, and left out as soon as one disagrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from veriscope.subjects.families import Family, find

ENOUGH = 512  # positions of a sweep through every block: laying out costs as much as some hundred of them
ENOUGH_ONCE = 16_384  # the same of a single run, which is meant to take little memory
MOST = 2**31  # bytes of a second copy of the weights
CLOSE = 1e-5  # between a module and its replacement, in units of the larger of 1 and the largest number
_GELUS: dict[type, str] = {NewGELUActivation: "tanh", GELUTanh: "tanh", GELUActivation: "none", nn.GELU: "none"}

Forward = Callable[[Tensor], Tensor]


@dataclass
class Packing:
    """Replacements for the modules of some blocks, made when first wanted and again when their weights have changed.

    Attributes:
        why_not: Why there are none; empty if there are, or if none were wanted yet.
    """

    blocks: Sequence[nn.Module]
    family: Family
    why_not: str = ""
    _forwards: dict[nn.Module, Forward] = field(default_factory=dict)
    _made_of: tuple[Any, ...] = ()

    @contextmanager
    def used(self, positions: int | float, enough: int = ENOUGH) -> Iterator[None]:
        """Replace the modules while so many positions go through every block, if that pays and no graph is kept.

        It depends on nothing else, so that one question gets the same answer to the last bit whatever was run before.
        """
        worth = positions >= enough and not torch.is_grad_enabled()
        with ExitStack() as stack:
            for module, forward in self.forwards().items() if worth else ():
                if "forward" not in module.__dict__:
                    module.forward = forward  # type: ignore[assignment]
                    stack.callback(module.__dict__.pop, "forward", None)
            yield

    @property
    def linear(self) -> list[Any]:
        """The layers that may be replaced."""
        return [part for block in self.blocks for part in block.modules() if type(part) in (Conv1D, nn.Linear)]

    @property
    def bytes(self) -> int:
        """What the second copy of the weights takes; 0 where there is none to be."""
        return 0 if _why_not(self.linear) else sum(4 * part.weight.numel() for part in self.linear)

    def forwards(self) -> dict[nn.Module, Forward]:
        """The replacement of each module; empty where `why_not` says so."""
        linear: list[Any] = [
            part for block in self.blocks for part in block.modules() if type(part) in (Conv1D, nn.Linear)
        ]
        stamp = tuple((id(part), part.weight.data_ptr(), part.weight._version) for part in linear)
        if stamp != self._made_of:
            self._made_of, self._forwards = stamp, {}
            self.why_not = _why_not(linear)
            if not self.why_not:
                try:
                    self._forwards = self._make(linear)
                except (RuntimeError, AttributeError, NotImplementedError) as error:
                    self.why_not = f"this build of PyTorch can't lay out weights ({type(error).__name__})"
        return self._forwards

    def _make(self, linear: Sequence[Any]) -> dict[nn.Module, Forward]:
        gelus = dict(found for block in self.blocks for found in _gelu_behind(block, self.family))
        out: dict[nn.Module, Forward] = {}
        for part in linear:
            act = gelus.get(part)
            out[part] = _product(part, None if act is None else _GELUS[type(act)])
            if act is not None:
                out[act] = _as_it_is
            miss = _miss(part, act, out[part])
            if not miss <= CLOSE:
                self.why_not = f"a product by laid-out weights is off by {miss:.2g}, where {CLOSE:.0e} is allowed"
                return {}
        return out


def _why_not(linear: Sequence[Any]) -> str:
    weights = [part.weight for part in linear]
    if not weights:
        return "the blocks have no plain linear layers"
    if any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights):
        return "only float32 weights on a CPU are laid out"
    if not torch.backends.mkldnn.is_available():
        return "this build of PyTorch has no oneDNN"
    n_bytes = sum(w.numel() * w.element_size() for w in weights)
    return f"a second copy of the weights would take {n_bytes / 2**30:.1f} GiB" if n_bytes > MOST else ""


def _gelu_behind(block: nn.Module, family: Family) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The layer whose output goes through a GELU and nowhere else, and that GELU."""
    up, act = (find(block, path) if path else None for path in (family.up, family.act))
    if up is not None and type(act) in _GELUS:
        assert act is not None
        yield up, act


def _product(part: Any, gelu: str | None) -> Forward:
    weight = part.weight.detach()
    weight = weight.T if isinstance(part, Conv1D) else weight
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    bias = None if part.bias is None else part.bias.detach()
    after: tuple[str, list[float], str] = ("none", [], "") if gelu is None else ("gelu", [], gelu)

    def forward(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, *after)

    return forward


def _as_it_is(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def _miss(part: Any, act: nn.Module | None, forward: Forward) -> float:
    wide = part.weight.shape[0 if isinstance(part, Conv1D) else 1]
    x = torch.randn(1, 3, int(wide), generator=torch.Generator().manual_seed(0))
    plain = part(x)
    plain = plain if act is None else act(plain)
    return float((forward(x) - plain).abs().max() / plain.abs().max().clamp_min(1.0))
