"""Laid-out weights give what the modules give, stop when they do not, and leave the modules as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import RAGGED, WORDS, build
from torch import nn

from veriscope.subjects import Add, Edit, Subject, WordReader, load, packing

TEXTS = list(RAGGED)
FAMILIES = ("gpt2", "neox", "llama", "gemma2")


def subject(family: str) -> Subject:
    """A model of its own for each test, since some change it."""
    return load(copy.deepcopy(build(family, 0)), tokenizer=WordReader(WORDS), name=family)


def swept(one: Subject) -> torch.Tensor:
    """Logits of a few edits."""
    edits = [Edit(f"blocks.{b}.resid_pre", Add(1.0), at=at) for b in (0, 1) for at in (0, "last", "all")]
    return one.sweep(TEXTS, edits).logits


def forwards(one: Subject) -> list[nn.Module]:
    """Modules whose forward stands replaced."""
    return [part for part in one.module.modules() if "forward" in part.__dict__]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sweep_by_laid_out_weights_is_the_sweep(name: str) -> None:
    one = subject(name)
    plain, engine = swept(one), one._engine
    with torch.no_grad(), engine.packing.used(10**6):
        assert len(forwards(one)) >= 4 * one.n_blocks, engine.packing.why_not
        packed = swept(one)
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max().clamp_min(1)
    assert not forwards(one)


def test_gelu_is_put_on_with_the_product_where_the_family_says_what_feeds_it() -> None:
    for name, fused in (("gpt2", True), ("neox", True), ("llama", False)):
        one = subject(name)
        made = one._engine.packing.forwards()
        assert any(forward is packing._as_it_is for forward in made.values()) == fused, name


def test_a_large_sweep_uses_them_and_a_small_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    one, used = subject("gpt2"), []
    made = packing.Packing.forwards
    monkeypatch.setattr(packing.Packing, "forwards", lambda self: used.append(1) or made(self))
    edits = [Edit("blocks.0.resid_pre", Add(float(i)), at="all") for i in range(200)]
    one.sweep(TEXTS, edits[:2])
    assert not used
    one.sweep(TEXTS, edits)
    assert used


def test_changed_weights_are_laid_out_anew() -> None:
    one = subject("gpt2")
    packing_ = one._engine.packing
    before = swept(one)
    with torch.no_grad(), packing_.used(10**6):
        swept(one)
    with torch.no_grad():
        one._engine.blocks[0].mlp.c_fc.weight.mul_(3.0)
    plain = swept(one)
    with torch.no_grad(), packing_.used(10**6):
        packed = swept(one)
    assert (plain - before).abs().max() > 1e-3
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max().clamp_min(1)


def test_a_product_that_disagrees_is_not_used_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    product = packing._product
    monkeypatch.setattr(packing, "_product", lambda part, gelu: lambda x: product(part, gelu)(x) + 0.01)
    one = subject("gpt2")
    with torch.no_grad(), one._engine.packing.used(10**6):
        assert not forwards(one)
    assert "off by" in one._engine.packing.why_not


def test_a_build_without_the_kernels_runs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(part: nn.Module, gelu: str | None) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(packing, "_product", missing)
    one = subject("gpt2")
    with torch.no_grad(), one._engine.packing.used(10**6):
        assert not forwards(one)
    assert "NotImplementedError" in one._engine.packing.why_not


def test_where_a_graph_is_kept_and_after_an_error_the_modules_are_themselves() -> None:
    one = subject("gpt2")
    with one._engine.packing.used(10**6):
        assert not forwards(one)
    with pytest.raises(KeyError), torch.no_grad(), one._engine.packing.used(10**6):
        raise KeyError
    assert not forwards(one)


def test_other_types_and_too_many_bytes_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject("gpt2")
    monkeypatch.setattr(packing, "MOST", 10)
    assert one._engine.packing.bytes == 0
    assert not one._engine.packing.forwards()
    assert "GiB" in one._engine.packing.why_not
    double = subject("gpt2")
    double.module.double()
    assert not double._engine.packing.forwards()
    assert "float32" in double._engine.packing.why_not
