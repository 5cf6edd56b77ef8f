"""veriscope through its public calls."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import Inputs, objective, probe_data
from benchmarks.peers.plain import texts_without, thin, thin_all
from benchmarks.worker import NotHere, Way, serve
from benchmarks.workloads import TOKENS
from veriscope.patching import attribution_patching
from veriscope.subjects import Edit, Erase, SetTo, Subject, WordReader, load

PENALTY = 1.0
EVERYTHING = {"post": "resid_post", "mid": "resid_mid", "q": "heads.q", "k": "heads.k", "z": "heads.z",
              "pattern": "heads.pattern", "act": "mlp.act"}  # fmt: skip


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What veriscope does in a workload."""
    making = {
        "W1": _capture,
        "W1 everything": _everything,
        "W2": _residuals,
        "W3": _heads,
        "W4": _sentences,
        "W5": _probes,
        "W7 gradients": lambda given: _attribution(given, steps=20, blocks=[0]),
        "W7 attribution": lambda given: _attribution(given, steps=0, blocks=None),
        "W8 all": lambda given: _directions(given, "W8", 6, "all", "most"),
        "W8 last": lambda given: _directions(given, "W8", 6, "last", "all"),
        "W9": lambda given: _directions(given, "W9", 1, "last", "all"),
    }
    return {"veriscope": making[workload](given)} if workload in making else {}


def _open(given: Inputs, shape: str = "gpt2") -> Subject:
    model = given.model(shape)
    return load(model, tokenizer=WordReader(tuple(f"w{i}" for i in range(model.config.vocab_size))))


def _texts(ids: Tensor) -> list[str]:
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]


def _pair(texts: Sequence[str]) -> Tensor:
    return torch.tensor([TOKENS]).expand(len(texts), -1)


def _capture(given: Inputs) -> Way:
    subject, texts = _open(given), _texts(given["W1"])
    sites = [f"blocks.{b}.resid_post" for b in range(12)]

    def run(cells: Sequence[int]) -> list[Tensor]:
        kept = subject.run([texts[i] for i in cells], read=sites)
        return [kept[site] for site in sites]

    return Way(run, "ours", show=thin)


def _everything(given: Inputs) -> Way:
    subject, texts = _open(given), _texts(given["W1"])
    sites = {name: [f"blocks.{b}.{tail}" for b in range(12)] for name, tail in EVERYTHING.items()}

    def run(cells: Sequence[int]) -> dict[str, list[Tensor]]:
        kept = subject.run([texts[i] for i in cells], read=[site for some in sites.values() for site in some])
        return {name: [kept[site] for site in some] for name, some in sites.items()}

    return Way(run, "ours", show=thin_all)


def _residuals(given: Inputs) -> Way:
    subject, texts, source = _open(given), _texts(given["W2 clean"]), given["W2 source"]

    def run(cells: Sequence[int]) -> Tensor:
        edits = []
        for layer, place in (divmod(cell, 15) for cell in cells):
            edits.append(Edit(f"blocks.{layer}.resid_pre", SetTo(source[layer][:, place]), at=place))
        return subject.sweep(texts, edits, tokens=_pair(texts)).logits

    return Way(run, "ours", "all")


def _heads(given: Inputs) -> Way:
    subject, texts = _open(given), _texts(given["W3 clean"])
    source = given["W3 source"].unflatten(-1, (12, -1))

    def run(cells: Sequence[int]) -> Tensor:
        edits = []
        for layer, head in (divmod(cell, 12) for cell in cells):
            value = source[layer][:, :, head : head + 1]
            edits.append(Edit(f"blocks.{layer}.heads.z", SetTo(value), units=(head,)))
        return subject.sweep(texts, edits, tokens=_pair(texts)).logits

    return Way(run, "ours", "most")


def _sentences(given: Inputs) -> Way:
    subject, ids = _open(given), given["W4"]
    (base,), texts = _texts(ids[None]), _texts(texts_without(ids))
    sites = [f"blocks.{b}.resid_post" for b in range(12)]

    def run(cells: Sequence[int]) -> Tensor:
        kept = subject.variations(base, [texts[i] for i in cells], read=sites)
        assert kept.logits is not None
        return torch.cat([kept.logits[:, list(TOKENS)], *(kept[site] for site in sites)], 1)

    return Way(run, "ours", "all")


def _probes(given: Inputs) -> Way:
    try:
        fit_folds: Any = importlib.import_module("veriscope.methods.fast_logistic").fit_folds
    except ImportError as error:
        raise NotHere("veriscope.methods.fast_logistic is not there yet") from error
    data = {site: probe_data(site) for site in range(13)}

    def run(cells: Sequence[int]) -> dict[int, Tensor]:
        return {site: fit_folds(*data[site], PENALTY) for site in cells}

    def show(found: dict[int, Tensor]) -> Tensor:
        rows = []
        for site, weights in found.items():
            x, y, folds = data[site]
            rows.append([objective(x, y, t, w, PENALTY) for t, w in zip(folds, weights, strict=True)])
        return torch.tensor(rows, dtype=torch.float64)

    return Way(run, "ours", "all", show)


def _attribution(given: Inputs, steps: int, blocks: Sequence[int] | None) -> Way:
    subject, clean, other = _open(given), _texts(given["W7 clean"]), _texts(given["W7 other"])
    answers, foils = ([f"w{token}"] * len(clean) for token in TOKENS)

    def run(cells: Sequence[int]) -> Tensor:
        # 3 cells are patched exactly: fewer it refuses, since no score is shown without its error
        found = attribution_patching(subject, clean, other, answers, foils, blocks=blocks, steps=steps, sample=3)
        scores = found.scores_logits[:, 0].transpose(1, 2)  # (block, pair, position)
        return scores[0] if steps else scores

    return Way(run, "ours", "all")


def _directions(given: Inputs, name: str, block: int, at: str, share: str) -> Way:
    subject = _open(given, "gpt2" if name == "W8" else "tiny")
    texts, axes = _texts(given[name]), given[f"{name} axes"]

    def run(cells: Sequence[int]) -> Tensor:
        zero = torch.zeros(axes.shape[1])
        edits = [Edit(f"blocks.{block}.resid_post", Erase(q[:, None], q[None], zero), at=at) for q in axes[list(cells)]]
        return subject.sweep(texts, edits, tokens=_pair(texts)).logits

    return Way(run, "ours", share)


if __name__ == "__main__":
    serve(ways, ["numpy"])
