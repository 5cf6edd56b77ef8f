"""Runs any module that maps token ids to something, with its submodules' outputs as sites, named by their paths.

What a site's axes are, whether padding is safe and whether the model looks ahead is found out by small runs at
load. A module that takes no `attention_mask`, or whose results change with padding, is run in groups of equal length.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from veriscope.errors import BadRead, CannotLoad
from veriscope.subjects.plan import Batch, plan
from veriscope.subjects.sites import Read, Site, settle
from veriscope.subjects.taps import Enough, Keeper, Tap, Taps
from veriscope.subjects.transformer import first_tensor, last

_LENGTHS = (5, 4, 3, 6, 2, 8, 1)  # tried in this order: some modules take prompts of one length only
_ROWS = 7  # unlike any of the lengths, so that the axes can be told apart


class PlainModule:
    """A module of no known family, ready to run.

    Attributes:
        sites: Paths of submodules whose output has one row for each example, in the order of the run.
        refused: Other paths, with the reason.
        equal_lengths: Whether batches must hold prompts of one length only.
        causal: Whether no site and no logit at a position changes with a later token.
    """

    head_is_true = True
    blocks: tuple[nn.Module, ...] = ()

    def __init__(self, module: nn.Module, vocab_size: int | None) -> None:
        self.module = module
        self.vocab_size = vocab_size or (self.embedding.num_embeddings if self.embedding is not None else 2)
        parameters = inspect.signature(module.forward).parameters
        self._takes_mask = "attention_mask" in parameters
        self._takes_cache = "use_cache" in parameters
        self.equal_lengths = not self._takes_mask
        self.sites: dict[str, Site] = {}
        self.refused: dict[str, str] = {}
        self._probe()

    def hurried(self, positions: int) -> AbstractContextManager[None]:
        """Nothing is known of a plain module that could hurry a large run."""
        return nullcontext()

    @property
    def config(self) -> Any:
        return getattr(self.module, "config", None)

    @property
    def context(self) -> int | None:
        own = getattr(self.module, "context", None)
        longest = own if isinstance(own, int) else getattr(self.config, "max_position_embeddings", None)
        return longest if isinstance(longest, int) else None

    @property
    def has_logits(self) -> bool:
        return "logits" in self.sites

    @property
    def embedding(self) -> nn.Embedding | None:
        return next((part for part in self.module.modules() if isinstance(part, nn.Embedding)), None)

    @property
    def d_model(self) -> int | None:
        return self.embedding.embedding_dim if self.embedding is not None else None

    @property
    def fill(self) -> int:
        return 0

    def run(self, batch: Batch, taps: Taps, logits: str | None, cache: None = None) -> Tensor | None:
        """One forward pass, as far as it is needed; the taps must be installed.

        Returns:
            None, (row, vocab) for logits="last", or (row, position, vocab) for "all".
        """
        own_tap = "logits" in taps and "logits" not in self._paths
        taps.begin(batch)
        taps.stop_early = logits is None and not own_tap
        try:
            out = logits_of(self._call(batch))
        except Enough:
            return None
        if out is None or (logits is None and not own_tap):
            return None
        if own_tap:
            out = taps.reach("logits", out if self.sites["logits"].has_positions else out.unsqueeze(1))
            out = out if self.sites["logits"].has_positions else out.squeeze(1)
        if logits is None:
            return None
        if logits == "all" and out.ndim == 2:
            raise BadRead("This model gives one row of logits for each prompt, not one for each position: use 'last'.")
        return last(out, batch) if logits == "last" and out.ndim == 3 else out

    @contextmanager
    def installed(self, taps: Taps) -> Iterator[None]:
        """Put hooks on the tapped submodules; they are off again when the block ends, however it ends."""
        with ExitStack() as stack:
            for name, site in self.sites.items():
                if name in taps and name in self._paths:
                    hook = self._paths[name].register_forward_hook(_tap_output(name, site, taps))
                    stack.callback(hook.remove)
            yield

    def _call(self, batch: Batch) -> Any:
        given: dict[str, Any] = {"use_cache": False} if self._takes_cache else {}
        if self._takes_mask and batch.ragged:
            given["attention_mask"] = batch.real.long()
        return self.module(batch.ids, **given)

    def _probe(self) -> None:
        """Find the sites, whether the model is causal, and whether padding is safe."""
        self._paths = {path: part for path, part in self.module.named_modules() if path}
        runs, problem = {}, ""
        for length in _LENGTHS:
            try:
                runs[length] = self._watch(length)
            except Exception as error:  # the module is not ours: whatever it raises, the length did not suit it
                problem = problem or f"{type(error).__name__}: {error}"
            if len(runs) == 2:
                break
        if not runs:
            raise CannotLoad(
                f"{type(self.module).__name__} could not be run on token ids of shape ({_ROWS}, {_LENGTHS[0]}): "
                f"{problem}. Its forward must take input_ids (example, position) and may take attention_mask."
            )
        for path in [*dict.fromkeys(path for seen, _, _ in runs.values() for path in seen), *self._paths]:
            if path not in self.sites and path not in self.refused:
                self._settle_site(path, {length: run[0].get(path, []) for length, run in runs.items()})
        self._settle_logits({length: run[1] for length, run in runs.items()})
        with torch.no_grad():
            self.causal = self._looks_back_only(next(iter(runs.values()))[2])
            if self._takes_mask and len(runs) == 2:
                self.equal_lengths = not self._padding_is_safe(sorted(runs))

    def _watch(self, length: int) -> tuple[dict[str, list[Any]], Any, Tensor]:
        """Every submodule's outputs in a run of prompts of one length, by path in order of the calls."""
        seen: dict[str, list[Any]] = {}
        ids = torch.randint(self.vocab_size, (_ROWS, length), generator=torch.Generator().manual_seed(length))
        ids = ids.to(device_of(self.module))
        with ExitStack() as stack, torch.no_grad():
            for path, part in self._paths.items():
                watch = _append_to(seen, path)
                stack.callback(part.register_forward_hook(watch).remove)
            out = self._call(Batch(torch.arange(_ROWS), ids, torch.full((_ROWS,), length)))
        return seen, logits_of(out), ids

    def _settle_site(self, path: str, outputs: Mapping[int, list[Any]]) -> None:
        reason = _why_not(outputs)
        if reason:
            self.refused[path] = reason
            return
        self.sites[path] = _site(path, {length: found[0].shape for length, found in outputs.items()})

    def _settle_logits(self, logits: Mapping[int, Tensor | None]) -> None:
        if "logits" in self.sites:
            return
        if any(out is None for out in logits.values()):
            self.refused["logits"] = "the module returns neither a tensor of logits nor an object with .logits"
            return
        shapes = {length: out.shape for length, out in logits.items() if out is not None}
        reason = _why_not({length: [out] for length, out in logits.items()})
        if reason or len(next(iter(shapes.values()))) > 3:
            self.refused["logits"] = reason or f"logits of shape {tuple(next(iter(shapes.values())))}"
            return
        site = _site("logits", shapes)
        self.sites["logits"] = Site("logits", (*site.axes[:-1], "vocab"), site.width, site.units)

    def _looks_back_only(self, ids: Tensor) -> bool:
        """Whether a change of the last token leaves every earlier position of every site as it was."""
        other = ids.clone()
        other[:, -1] = (other[:, -1] + 1) % self.vocab_size
        names = [name for name, site in self.sites.items() if site.has_positions]
        if ids.shape[1] < 2 or not names:
            return True
        one, two = self._read_all(ids, names), self._read_all(other, names)
        return all(_close(one[name][:, :-1], two[name][:, :-1]) for name in names)

    def _padding_is_safe(self, lengths: list[int]) -> bool:
        """Whether a short prompt gives the same beside a long one as alone, at every site."""
        short, long = lengths
        tokens = torch.randint(self.vocab_size, (2, long), generator=torch.Generator().manual_seed(0)).tolist()
        names = list(self.sites)
        together = plan([tokens[0][:short], tokens[1]], batch_tokens=4 * long, device=device_of(self.module))
        try:
            padded = self._read_all(together.batches[0], names)
        except Exception:  # a mask that it takes but can't use
            return False
        alone = self._read_all(torch.tensor([tokens[0][:short]], device=device_of(self.module)), names)
        for name in names:
            one = padded[name][:1]
            if self.sites[name].has_positions:
                one = one[:, :short]
            if not _close(one, alone[name]):
                return False
        return True

    def _read_all(self, what: Tensor | Batch, names: list[str]) -> dict[str, Tensor]:
        batch = what
        if isinstance(batch, Tensor):
            rows = torch.arange(len(batch), device=batch.device)
            batch = Batch(rows, batch, torch.full((len(batch),), batch.shape[1], device=batch.device))
        everywhere = settle("all", batch.lengths)
        keepers = {
            name: Keeper(Read(name), self.sites[name], everywhere, len(batch), batch.ids.shape[1], grad=False)
            for name in names
        }
        taps = Taps({name: Tap(self.sites[name], keepers=[keeper]) for name, keeper in keepers.items()})
        ordered = Batch(torch.arange(len(batch), device=batch.ids.device), batch.ids, batch.lengths, None, batch.ragged)
        with self.installed(taps):
            self.run(ordered, taps, None)
        return {name: keeper.result() for name, keeper in keepers.items()}


def logits_of(output: Any) -> Tensor | None:
    """Logits in what a module returned: the tensor itself, `.logits`, or the first of a tuple."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    found = first_tensor(found)
    return found if isinstance(found, Tensor) and found.is_floating_point() else None


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are; the CPU if it has none."""
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))


def _why_not(outputs: Mapping[int, list[Any]]) -> str:
    """Why this is no site; empty if it is one."""
    if not all(outputs.values()):
        return "its forward is not called in a run"
    if any(len(found) > 1 for found in outputs.values()):
        return "it is called more than once in a run, so its name would mean several tensors"
    for found in outputs.values():
        out = found[0]
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return f"it returns no tensor of numbers but {type(out).__name__}"
        if out.ndim < 2 or out.shape[0] != _ROWS:
            return f"the first axis of its output {tuple(out.shape)} is not the example"
    shapes = [(length, found[0].shape) for length, found in outputs.items()]
    if len({len(shape) for _, shape in shapes}) > 1 or len({shape[-1] for _, shape in shapes}) > 1:
        return "the last axis of its output changes with the length of the prompt"
    return ""


def _site(path: str, shapes: Mapping[int, torch.Size]) -> Site:
    shape = next(iter(shapes.values()))
    positions = len(shape) > 2 and all(found[1] == length for length, found in shapes.items())
    middle = tuple(f"axis{number}" for number in range(2 if positions else 1, len(shape) - 1))
    axes = ("example", *(("position",) if positions else ()), *middle, "width")
    return Site(path, axes, int(shape[-1]), int(shape[-1]))


def _append_to(seen: dict[str, list[Any]], path: str) -> Any:
    def watch(_: nn.Module, args: Any, output: Any) -> None:
        seen.setdefault(path, []).append(first_tensor(output))

    return watch


def _tap_output(name: str, site: Site, taps: Taps) -> Any:
    def on_output(_: nn.Module, args: Any, output: Any) -> Any:
        old = first_tensor(output)
        view = old if site.has_positions else old.unsqueeze(1)
        new = taps.reach(name, view)
        if new is view:
            return None
        new = new if site.has_positions else new.squeeze(1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return on_output


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)
