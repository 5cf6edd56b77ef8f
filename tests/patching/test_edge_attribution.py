"""Edge scores: the wired path and nothing else; slopes of exact edge patching; an error that tells when they fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import subject
from tiny_pairs import CLEAN, CORRUPT, PAIRS, UNEVEN, gaps
from torch import Tensor
from wired import PATH, pairs, wired

from veriscope.errors import NotAvailable, NotRun
from veriscope.patching import edge_attribution, edges, path_patching
from veriscope.patching.edges import _exact
from veriscope.patching.gaps import BadChoice, Pairs, pair_up
from veriscope.patching.parts import Apart, Node, tell_apart
from veriscope.subjects import Add, Edit, Read, SetTo

FAMILIES = ("gpt2", "neox", "neox_sequential", "llama", "qwen2", "qwen3", "mistral", "gemma")
EVERY = {"sample": 1000}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 5])
def test_the_wired_path_scores_in_full_and_every_other_edge_nothing(steps: int) -> None:
    found = edge_attribution(wired("additive"), **pairs(), **EVERY, steps=steps)

    for row in found.table():
        expected = 1.0 if (row["sender"], row["receiver"]) in PATH else 0.0
        assert row["score"] == pytest.approx(expected, abs=2e-3), row
        assert row["exact"] == pytest.approx(expected, abs=2e-3), row
    assert [{row["sender"] for row in found.top(3)}, len(found.top(3))] == [{edge[0] for edge in PATH}, 3]
    assert not found.error.large and found.error.mean_absolute.value < 1e-3


def test_an_edge_that_is_cut_scores_nothing_and_the_new_one_in_full() -> None:
    found = edge_attribution(wired("additive", read="head"), **pairs(), **EVERY)

    assert found.score("blocks.0.mlp", "logits") == pytest.approx(0.0, abs=2e-3)
    assert found.score("blocks.0.heads.z[0]", "blocks.0.mlp") == pytest.approx(0.0, abs=2e-3)
    assert found.score("blocks.0.heads.z[0]", "logits") == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
def test_where_the_effect_saturates_the_gradient_fails_and_says_so_and_the_integral_repairs_it() -> None:
    plain = edge_attribution(wired(), **pairs(), **EVERY)
    integrated = edge_attribution(wired(), **pairs(), **EVERY, steps=60)

    for sender, receiver in PATH[:2]:
        assert abs(plain.score(sender, receiver)) < 0.01
        assert integrated.score(sender, receiver) == pytest.approx(1.0, abs=0.05)
    assert plain.error.large and "LARGE ERROR: THESE SCORES DO NOT MEASURE THE EFFECTS" in str(plain)
    assert plain.error.max_absolute == pytest.approx(1.0, abs=0.01)
    assert not integrated.error.large and "LARGE ERROR" not in str(integrated)
    assert integrated.error.max_absolute < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_the_slope_of_exact_edge_patching(family: str) -> None:
    one = subject(family)
    apart = tell_apart(one)

    found = edge_attribution(one, **UNEVEN, sample=3, top=3)

    step = 0.01
    some = apart.exists.nonzero().tolist()[3 :: int(apart.exists.sum()) // 12]
    coupled = pair_up(one, *UNEVEN.values(), "noising", None)
    there, back = (_nudged(apart, coupled, [(i, j) for i, j in some], sign * step) for sign in (1, -1))
    for (i, j), up, down in zip(some, there, back, strict=True):
        where = str(apart.senders[i]), str(apart.receivers[j])
        assert torch.allclose(found.scores_logits[:, i, j], (up - down) / (2 * step), atol=5e-3, rtol=0.03), where


def _nudged(apart: Apart, coupled: Pairs, some: list[tuple[int, int]], step: float) -> list[Tensor]:
    """Logit differences with a small part of each edge's difference, by the exact way."""
    whole = edges._differences

    def little(*given: Any) -> tuple[Tensor, Tensor]:
        ways, embedded = whole(*given)
        return step * ways, embedded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edges, "_differences", little)
        edits = edges._edits(apart, coupled, some)
    return [gaps(coupled.into.subject, coupled.into.texts, edit) for edit in edits]


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_the_exact_effect_is_path_patching_with_all_else_frozen(family: str) -> None:
    one = subject(family)
    apart = tell_apart(one)
    coupled = pair_up(one, *PAIRS.values(), "noising", None)
    wanted = [(Node("head", 0, 2), Node("q", 1, 3)), (Node("head", 0, 1), Node("v", 2, 0)),
              (Node("head", 1, 0), Node("mlp", 2)), (Node("mlp", 0), Node("k", 2, 1)),
              (Node("head", 1, 2), Node("logits"))]  # fmt: skip
    wanted_edges = [(apart.senders.index(s), apart.receivers.index(r)) for s, r in wanted]

    found = _exact(apart, coupled, wanted_edges, progress=False)

    for (sender, receiver), edge in zip(wanted, wanted_edges, strict=True):
        sent = (sender.block, sender.unit) if sender.kind == "head" else f"blocks.{sender.block}.mlp_out"
        reached = {"mlp": Read(f"blocks.{receiver.block}.mlp_out"), "logits": Read("blocks.2.resid_post")}.get(
            receiver.kind, Read(f"blocks.{receiver.block}.heads.{receiver.kind}", units=(receiver.unit,))
        )
        plain = path_patching(one, **PAIRS, sender=sent, receivers=[reached], mlps="frozen")
        assert float(found[edge]) == pytest.approx(plain.effect.value, abs=1e-4), (str(sender), str(receiver))


def test_the_embedding_is_a_sender_too() -> None:
    one = subject("gpt2")
    apart = tell_apart(one)
    coupled = pair_up(one, *PAIRS.values(), "noising", None)
    edge = (0, apart.receivers.index(Node("v", 2, 1)))

    found = _exact(apart, coupled, [edge], progress=False)[edge]

    way = one.run(CORRUPT, read=["embed"])["embed"] - one.run(CLEAN, read=["embed"])["embed"]
    v = one.run(CLEAN, read=["blocks.2.heads.v"], edits=[Edit("blocks.2.resid_pre", Add(way))])["blocks.2.heads.v"]
    plain = gaps(one, CLEAN, Edit("blocks.2.heads.v", SetTo(v[:, :, [1]]), units=(1,)))
    expected = (plain - coupled.base).mean() / (coupled.other - coupled.base).mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("family, within", [("gpt2", True), ("neox", False)])
def test_as_many_edges_as_the_parts_that_see_each_other(family: str, within: bool) -> None:
    found = edge_attribution(subject(family), **PAIRS, sample=3, top=3)

    blocks, heads = 3, 4  # and the MLP sees the heads of its own block, unless the two stand side by side
    into_mlp = sum(1 + block * 5 + within * heads for block in range(blocks))
    expected = sum((1 + block * 5) * 3 * heads for block in range(blocks)) + into_mlp + 1 + blocks * 5
    assert len(found) == expected == len(found.table())
    assert sum(isinstance(row["exact"], NotRun) for row in found.table()) >= expected - 6
    assert float(found.scores_logits[:, ~found.exists].abs().max()) == 0.0


def test_edges_are_scored_both_ways_and_in_small_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject("llama")
    whole = edge_attribution(one, **UNEVEN, steps=3, direction="denoising", sample=3, top=3)
    monkeypatch.setattr("veriscope.patching.edges.TOKENS_AT_ONCE", 8)

    parts = edge_attribution(one, **UNEVEN, steps=3, direction="denoising", sample=3, top=3)

    assert torch.allclose(whole.scores_logits, parts.scores_logits, atol=1e-5)
    assert torch.equal(whole.base, whole.corrupt)


def test_the_printed_error_is_the_error_there_is(tmp_path) -> None:
    found = edge_attribution(subject("gpt2"), **PAIRS, sample=30, seed=4)

    error = (found.error.scored - found.error.exact).abs()
    assert found.error.mean_absolute.value == pytest.approx(float(error.mean()), abs=1e-6)
    assert found.error.max_absolute == pytest.approx(float(error.max()), abs=1e-6)
    live = found.error.exact.abs() > 1e-5
    alike = found.error.scored.sign() == found.error.exact.sign()
    assert found.error.sign.value == pytest.approx(float(alike[live].float().mean()))
    assert found.error_at_top.drawn == "those with the strongest scores" and len(found.error_at_top.cells) == 10
    assert "rank correlation" in str(found) and "sign right in" in str(found)
    sender, receiver = found.top(1)[0]["sender"], found.top(1)[0]["receiver"]
    bounds = found.estimate(sender, receiver)
    assert bounds.low <= bounds.value <= bounds.high and bounds.value == pytest.approx(found.score(sender, receiver))
    assert "mean absolute error" in found.plot(tmp_path / "edges.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "words"),
    [("gemma2", "a norm stands between"), ("gemma3", "a norm stands between"), ("bert", "sees what stands behind")],
)
def test_models_whose_parts_do_not_add_up_are_refused(family: str, words: str) -> None:
    with pytest.raises(NotAvailable, match=words):
        edge_attribution(subject(family), **PAIRS)


def test_parts_that_are_not_where_they_were_thought_to_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Apart.through
    turned = {"q": "k", "k": "q", "v": "v"}
    monkeypatch.setattr(Apart, "through", lambda self, block, part: right(self, block, turned[part]))

    with pytest.raises(NotAvailable, match="does not add up"):
        edge_attribution(subject("gpt2"), **PAIRS)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"steps": -1}, "plain gradient"), ({"sample": 2}, "without its error"), ({"top": 0}, "without its error")],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, words: str) -> None:
    with pytest.raises(BadChoice, match=words):
        edge_attribution(subject("gpt2"), **PAIRS, **changed)


def test_an_edge_that_is_none_is_named() -> None:
    found = edge_attribution(subject("gpt2"), **PAIRS, sample=3, top=3)

    with pytest.raises(BadChoice, match="it is one of embed"):
        found.score("blocks.9.mlp", "logits")
    with pytest.raises(BadChoice, match="no edge between them"):
        found.score("blocks.2.mlp", "blocks.0.mlp")
