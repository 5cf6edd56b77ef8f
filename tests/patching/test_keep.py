"""A sweep that was killed goes on where it was, and never picks up the pieces of another question."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WORDS, build, subject
from tiny_pairs import ASKED, CLEAN, CORRUPT, PAIRS
from torch import Tensor

from veriscope.compute import Pieces
from veriscope.patching import (
    ablation_scan,
    activation_patching,
    attribution_patching,
    dose_curve,
    edge_attribution,
    head_sweep,
    span_sweep,
)
from veriscope.patching.kept import fingerprint
from veriscope.subjects import Edit, Resample, Span, Subject, Variant, WordReader, load

ACROSS = torch.linspace(-1, 1, 32)

TOOLS: dict[str, tuple[Callable[..., Any], Callable[[Any], Tensor]]] = {
    "activation": (
        lambda one, keep: activation_patching(one, **PAIRS, part="heads.z", keep=keep),
        lambda found: found.gaps,
    ),
    "ablation": (
        lambda one, keep: ablation_scan(one, CLEAN, **ASKED, part="attn_out", blocks=[1], keep=keep),
        lambda found: torch.cat([found.gaps.flatten(), *(part.flatten() for part in found.controls_logits.values())]),
    ),
    "doses": (
        lambda one, keep: dose_curve(one, CLEAN, **ASKED, site="blocks.1.resid_pre", vector=ACROSS, doses=[1, 2],
                                     keep=keep),
        lambda found: torch.cat([found.gaps.flatten(), found.controls_logits.flatten()]),
    ),
    "attribution": (
        lambda one, keep: attribution_patching(one, **PAIRS, part="heads.z", steps=3, keep=keep),
        lambda found: torch.cat([found.scores_logits.flatten(), found.error.exact]),
    ),
    "edges": (
        lambda one, keep: edge_attribution(one, **PAIRS, steps=3, keep=keep),
        lambda found: torch.cat([found.scores_logits.flatten(), found.error.exact]),
    ),
    "heads": (
        lambda one, keep: head_sweep(one, CLEAN, **ASKED, how="zero", heads=[(0, 1), (1, 2)], keep=keep),
        lambda found: torch.cat([table.gaps.flatten() for table in found.tables]),
    ),
    "spans": (
        lambda one, keep: span_sweep(one, CLEAN, spans={"it": (3, 8)}, **ASKED, corrupt=CORRUPT, keep=keep),
        lambda found: torch.cat([cell.changes for cell in found.cells]),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veriscope.patching.gaps._TOKENS_KEPT", 60)
    monkeypatch.setattr("veriscope.patching.gaps._EDITS_KEPT", 16)


class Killed(BaseException):
    """What a signal does to a run."""


def kill_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Die with the piece that follows so many finished ones."""
    store, left = Pieces.store, [count]

    def storing(self: Pieces, key: str, arrays: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        store(self, key, arrays)

    patch.setattr(Pieces, "store", storing)


def passes(one: Subject, run: Callable[[], Any]) -> tuple[Any, int]:
    before = one.passes
    return run(), one.passes - before


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_that_was_killed_goes_on_and_gives_the_same_table(tool: str, tmp_path: Path) -> None:
    run, numbers = TOOLS[tool]
    one = subject("gpt2")
    whole, all_passes = passes(one, lambda: run(one, tmp_path / "whole"))
    pieces = len(Pieces(tmp_path / "whole"))
    assert pieces >= 3
    with pytest.MonkeyPatch.context() as patch:
        kill_after(pieces - 1, patch)
        with pytest.raises(Killed):
            run(one, tmp_path / "killed")
    assert len(Pieces(tmp_path / "killed")) == pieces - 1

    again, fewer = passes(one, lambda: run(one, tmp_path / "killed"))

    assert torch.equal(numbers(again), numbers(whole)) and fewer < all_passes
    assert torch.allclose(numbers(again), numbers(run(one, None)), atol=1e-5)
    assert not list((tmp_path / "killed").glob(".*"))


SCRIPT = """
import os, signal, sys
sys.path[:0] = {path!r}
import test_keep, veriscope.patching.gaps as gaps
from veriscope.compute import Pieces
gaps._TOKENS_KEPT, gaps._EDITS_KEPT = 60, 16
store, left = Pieces.store, [2]
def storing(self, key, arrays):
    store(self, key, arrays)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Pieces.store = storing
test_keep.TOOLS["activation"][0](test_keep.subject("gpt2"), sys.argv[1])
"""


@pytest.mark.slow
def test_a_process_that_was_killed_leaves_its_pieces_to_the_next(tmp_path: Path) -> None:
    one, (run, numbers) = subject("gpt2"), TOOLS["activation"]
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "subjects")]

    ran = subprocess.run([sys.executable, "-c", SCRIPT.format(path=path), str(tmp_path / "kept")], env=os.environ)
    left = len(Pieces(tmp_path / "kept"))
    again, fewer = passes(one, lambda: run(one, tmp_path / "kept"))

    whole, all_passes = passes(one, lambda: run(one, tmp_path / "whole"))
    assert ran.returncode == -signal.SIGKILL and left == 2
    assert torch.equal(numbers(again), numbers(whole)) and fewer < all_passes


def test_another_question_finds_nothing_that_was_kept(tmp_path: Path) -> None:
    module = build("gpt2")
    one = load(module, tokenizer=WordReader(WORDS), name="mine")
    activation_patching(one, **PAIRS, keep=tmp_path)
    kept = len(Pieces(tmp_path))

    other_texts = activation_patching(one, **{**PAIRS, "corrupt": (CORRUPT[0], "w4 w1 w9 w7 w8", CORRUPT[2])},
                                      keep=tmp_path)  # fmt: skip
    other_answers = activation_patching(one, **{**PAIRS, "answers": ("w7", "w20", "w31")}, keep=tmp_path)
    with torch.no_grad():
        module.transformer.h[2].mlp.c_proj.weight[0, 0] += 3.0
    other_weights = activation_patching(one, **PAIRS, keep=tmp_path)

    assert len(Pieces(tmp_path)) == 4 * kept
    assert torch.allclose(other_weights.gaps, activation_patching(one, **PAIRS).gaps, atol=1e-5)
    assert not torch.allclose(other_texts.gaps, other_answers.gaps, atol=1e-3)


def test_a_torn_piece_is_done_again(tmp_path: Path) -> None:
    one = subject("gpt2")
    whole = activation_patching(one, **PAIRS, keep=tmp_path)
    torn = sorted(tmp_path.iterdir())[0]
    torn.write_bytes(torn.read_bytes()[:-5])

    again = activation_patching(one, **PAIRS, keep=tmp_path)

    assert torch.equal(again.gaps, whole.gaps)


def test_what_was_kept_counts_for_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    @contextmanager
    def counting(what: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
        yield told.append

    monkeypatch.setattr("veriscope.patching.gaps.waiting", counting)
    one = subject("gpt2")
    activation_patching(one, **PAIRS, keep=tmp_path)
    told.clear()

    activation_patching(one, **PAIRS, keep=tmp_path)

    assert sum(told) == 3 * 5 * 3


def test_a_fingerprint_tells_apart_what_differs_and_nothing_else() -> None:
    values = torch.arange(6.0).view(2, 3)
    variant = Variant((Edit("blocks.0.resid_pre", Resample(values), at=Span(0, 2)),))
    others = [
        Variant((Edit("blocks.1.resid_pre", Resample(values), at=Span(0, 2)),)),
        Variant((Edit("blocks.0.resid_pre", Resample(values.view(3, 2)), at=Span(0, 2)),)),
        Variant((Edit("blocks.0.resid_pre", Resample(values.double()), at=Span(0, 2)),)),
        Variant((Edit("blocks.0.resid_pre", Resample(values), at=Span(0, 1)),)),
        Variant((Edit("blocks.0.resid_pre", Resample(values), at=Span(0, 2), units=(1,)),)),
        Variant((Edit("blocks.0.resid_pre", Resample(values), at=Span(0, 2)),), at=1),
    ]

    prints = [fingerprint(one) for one in (variant, *others)]

    assert len(set(prints)) == len(prints)
    assert fingerprint(Variant((Edit("blocks.0.resid_pre", Resample(values.clone()), at=Span(0, 2)),))) == prints[0]
    assert fingerprint("ab", "c") != fingerprint("a", "bc") and fingerprint([1, [2]]) != fingerprint([[1], 2])
    assert fingerprint(1) != fingerprint("1") and fingerprint(1) != fingerprint(True)
    with pytest.raises(TypeError, match="has no fingerprint"):
        fingerprint({1, 2})
