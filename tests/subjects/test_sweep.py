"""A sweep agrees with one plain run for each edit, in every family and wherever the edit stands."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_models import RAGGED, WORDS, build, subject

from veriscope.errors import BadEdit, BadPosition, BadRead, UnknownSite
from veriscope.subjects import (
    Add,
    Edit,
    Erase,
    Read,
    SetTo,
    Span,
    Subject,
    Swap,
    Variant,
    WordReader,
    Zero,
    load,
)
from veriscope.subjects.sweep import TooLarge

CAUSAL = ("gpt2", "neox", "neox_sequential", "llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
          "gemma3")  # fmt: skip
SEES_AHEAD = ("bert", "roberta")
TEXTS = list(RAGGED)
OUTSIDE = ("logits", "final_norm")


def inside(one: Subject) -> list[str]:
    """Sites at which replay may begin."""
    return [name for name in one.sites if name not in OUTSIDE and not name.endswith("pattern")]


def drawn_edit(one: Subject, site: str, rng: random.Random) -> Edit:
    """An edit at a site with positions, units and values drawn by the seed."""
    of, n = one.sites[site], len(TEXTS)
    at = rng.choice(["all", "last", "first", 1, torch.tensor([rng.randrange(2) for _ in TEXTS]), Span(1), Span(0, 2)])
    make = torch.Generator().manual_seed(rng.randrange(10**6))
    size = of.size or 1
    basis = torch.linalg.qr(torch.randn(size, 2, generator=make)).Q
    how = rng.choice(
        [
            Add(torch.randn(size, generator=make)),
            SetTo(torch.randn(n, size, generator=make)),
            Zero(),
            Erase(basis, basis.T, torch.randn(size, generator=make)),
            Swap(torch.randn(n, size, generator=make), basis) if not of.per_head else Zero(),
        ]
    )
    some = isinstance(how, Zero) and rng.random() < 0.5
    return Edit(site, how, at=at, units=(0, (of.units or 1) - 1) if some else None)


def drawn_variants(one: Subject, count: int, seed: int) -> list[Variant]:
    """One edit at every site, then `count` mixtures of up to three."""
    rng = random.Random(seed)
    sites = inside(one)
    mixed = [tuple(drawn_edit(one, rng.choice(sites), rng) for _ in range(rng.randint(1, 3))) for _ in range(count)]
    return [Variant((drawn_edit(one, site, rng),)) for site in sites] + [
        Variant(edits, at=rng.choice(["last", 1])) for edits in mixed
    ]


def plain(one: Subject, variant: Variant) -> torch.Tensor:
    """Logits of an ordinary run of one variant."""
    whole = one.run(TEXTS, edits=variant.edits, logits="all").logits
    assert whole is not None
    lengths = [len(ids) for ids in one.tokens(TEXTS)]
    places = [n - 1 if variant.at == "last" else 1 for n in lengths]
    return whole[torch.arange(len(TEXTS)), places]


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_is_what_plain_runs_give(family: str, seed: int) -> None:
    one = subject(family)
    variants = drawn_variants(one, 25, seed)

    planned = one.plan_sweep(TEXTS, variants)
    swept = planned.run()

    assert planned.why_plain == ""
    for variant, logits in zip(variants, swept.logits, strict=True):
        assert torch.allclose(logits, plain(one, variant), atol=1e-5), variant
    assert torch.allclose(swept.base, plain(one, Variant(())), atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_cells_in_small_pieces_and_shared_prompts_give_the_same(family: str) -> None:
    one = subject(family)
    edits = [Edit("blocks.1.resid_pre", Add(torch.full((32,), 0.1 * k)), at="last") for k in range(1, 6)]
    edits += [Edit("blocks.0.mlp_out", Zero(), at=1)] * 3
    whole, pieces = one.plan_sweep(TEXTS, edits), one.plan_sweep(TEXTS, edits)
    pieces.rows = 3

    assert torch.allclose(whole.run().logits, pieces.run().logits, atol=1e-5)
    for edit, logits in zip(edits, whole.run().logits, strict=True):
        assert torch.allclose(logits, plain(one, Variant((edit,))), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3"])
def test_reads_are_those_of_plain_runs(family: str) -> None:
    one = subject(family)
    variants = drawn_variants(one, 10, 3)
    reads = [
        Read("blocks.0.resid_post", "last"),
        Read("blocks.1.heads.z", 1, units=(1,)),
        Read("blocks.2.mlp.act", 0),
        Read("blocks.1.resid_post"),
        Read("blocks.2.mlp_out", units=(0, 3)),
    ]

    swept = one.sweep(TEXTS, variants, read=reads)

    for number, variant in enumerate(variants):
        run = one.run(TEXTS, edits=variant.edits, read=reads)
        for read in reads:
            assert torch.allclose(swept[read][number], run[read], atol=1e-5), (read, variant)


@pytest.mark.parametrize("family", SEES_AHEAD)
def test_where_nothing_can_be_skipped_every_edit_has_a_run_of_its_own(family: str) -> None:
    one = subject(family)
    edits = [Edit("blocks.1.resid_pre", Zero(), at="last"), Edit("blocks.0.mlp_out", Zero())]

    planned = one.plan_sweep(TEXTS, edits)

    assert "sees what stands behind" in planned.explain()
    logits_of_both = planned.run().logits
    assert planned.cost == 3 * len(TEXTS)  # the base run counts too
    for edit, logits in zip(edits, logits_of_both, strict=True):
        assert torch.allclose(logits, plain(one, Variant((edit,))), atol=1e-6)


@pytest.mark.parametrize("site", ["logits", "final_norm", "blocks.1.heads.pattern"])
def test_an_edit_outside_the_blocks_is_run_plainly(site: str) -> None:
    one = subject("gpt2")
    edit = Edit(site, Zero(), units=(0,))

    planned = one.plan_sweep(TEXTS, [edit])

    assert site in planned.why_plain
    assert torch.allclose(planned.run().logits[0], plain(one, Variant((edit,))), atol=1e-6)


def test_only_the_tokens_asked_for_are_kept() -> None:
    one = subject("gemma2")  # caps its logits
    tokens = torch.tensor([[3, 1], [4, 1], [5, 9], [2, 2]])
    edits = [Edit("blocks.1.resid_mid", Zero(), at="last")]

    swept, whole = one.sweep(TEXTS, edits, tokens=tokens), one.sweep(TEXTS, edits)

    assert torch.allclose(swept.logits[0], whole.logits[0].gather(1, tokens), atol=1e-6)
    assert torch.allclose(swept.base, whole.base.gather(1, tokens), atol=1e-6)


def test_an_edit_behind_the_position_read_changes_nothing() -> None:
    one = subject("gpt2")

    planned = one.plan_sweep(TEXTS, [Variant((Edit("blocks.0.resid_pre", Zero(), at="last"),), at=0)])

    assert "4 runs that their edit can't change" in planned.explain()
    assert torch.allclose(planned.run().logits[0], plain_first(one), atol=1e-6)


def plain_first(one: Subject) -> torch.Tensor:
    whole = one.run(TEXTS, logits="all").logits
    assert whole is not None
    return whole[:, 0]


def test_a_model_that_replay_gets_wrong_is_run_plainly_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from veriscope.subjects.replay import Packed

    one = subject("gpt2", seed=5)
    right = Packed.reach
    monkeypatch.setattr(Packed, "reach", lambda self, name, h, slot=None: right(self, name, h * 1.01, slot))
    edit = Edit("blocks.1.resid_pre", Zero(), at=1)

    planned = one.plan_sweep(TEXTS, [edit])

    assert "replay is off by" in planned.explain()
    assert torch.allclose(planned.run().logits[0], plain(one, Variant((edit,))), atol=1e-6)


def test_a_sweep_costs_less_than_its_plain_runs() -> None:
    one = subject("gpt2")
    edits = [Edit("blocks.2.resid_pre", Add(0.1 * k), at="last") for k in range(50)]
    before = one.passes

    one.sweep(TEXTS, edits)

    assert one.passes - before < 50 * len(TEXTS) / 8


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (Edit("blocks.9.resid_pre", Zero()), UnknownSite, "no site"),
        (Edit("blocks.1.resid_pre", Add(torch.ones(31))), BadEdit, "takes values of shape"),
        (Edit("blocks.1.resid_pre", Zero(), at=7), BadPosition, "outside prompt"),
        (Edit("blocks.1.heads.z", Zero(), units=(4,)), BadEdit, "units"),
    ],
)
def test_bad_edits_are_refused_before_anything_runs(edit: Edit, error: type[Exception], words: str) -> None:
    one = subject("gpt2")
    before = one.passes

    with pytest.raises(error, match=words):
        one.sweep(TEXTS, [edit])
    assert one.passes == before


def test_a_sweep_that_does_not_fit_is_refused_and_says_what_it_needs() -> None:
    one = subject("gpt2")

    with pytest.raises(TooLarge, match="Raise `memory`"):
        one.sweep(TEXTS, [Edit("blocks.1.resid_pre", Zero())], memory=1000)
    with pytest.raises(BadRead, match="at one position"):
        one.sweep(TEXTS, [Edit("blocks.1.resid_pre", Zero())], read=[Read("blocks.1.resid_post", Span(0, 2))])
    with pytest.raises(BadRead, match="one row of ids"):
        one.sweep(TEXTS, [Edit("blocks.1.resid_pre", Zero())], tokens=torch.ones(2, 1, dtype=torch.long))


@pytest.mark.parametrize("family", [*CAUSAL, *SEES_AHEAD])
def test_texts_that_begin_alike_give_what_single_runs_give(family: str) -> None:
    one = subject(family)
    base = "w4 w5 w6 w7 w8 w3 w3 w4 w5"
    texts = [base, "w4 w5 w6 w8 w3 w3 w4 w5", "w4 w5 w6 w7", "w9 w5", base + " w1 w2 w3", "w4 w5 w6 w7 w8 w3 w3 w4 w6"]
    sites = ["blocks.2.resid_post", "blocks.1.heads.z", "blocks.0.mlp.act"]

    found = one.variations(base, texts, read=sites)

    reads = [Read(site, "last") for site in sites]
    whole = one.run(texts, read=reads, logits="last")
    assert found.logits is not None and whole.logits is not None
    assert torch.allclose(found.logits, whole.logits, atol=1e-5)
    for site, read in zip(sites, reads, strict=True):
        assert torch.allclose(found[site], whole[read], atol=1e-5), site


@pytest.mark.parametrize("family", [*CAUSAL, *SEES_AHEAD])
def test_beginnings_of_texts_give_what_those_beginnings_give(family: str) -> None:
    one = subject(family)
    base = "w4 w5 w6 w7 w8 w3 w3 w4 w5"
    texts, lengths = [base, "w4 w5 w6 w8 w3 w3 w4 w5", "w9 w5"], [8, 3, 1]

    found = one.variations(base, texts, read=["blocks.1.resid_post"], lengths=lengths)

    read = Read("blocks.1.resid_post", "last")
    whole = one.run([" ".join(t.split()[:n]) for t, n in zip(texts, lengths, strict=True)], read=[read], logits="last")
    assert found.logits is not None and whole.logits is not None
    assert torch.allclose(found.logits, whole.logits, atol=1e-5)
    assert torch.allclose(found["blocks.1.resid_post"], whole[read], atol=1e-5)
    assert found.mask.sum(1).tolist() == lengths


@pytest.mark.parametrize("lengths", [[1], [0, 1], [1, 3]])
def test_beginnings_that_cannot_be_are_refused(lengths: list[int]) -> None:
    with pytest.raises(BadRead, match="lengths"):
        subject("gpt2").variations("w4 w5", ["w4 w5", "w4 w6"], lengths=lengths)


def test_texts_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from veriscope.subjects import sweep

    one = subject("llama")
    base = "w4 w5 w6 w7 w8 w3 w3 w4 w5"
    texts = [base.replace(f"w{k}", "w9", 1) for k in range(3, 9)]
    whole = one.variations(base, texts).logits

    monkeypatch.setattr(sweep, "AT_ONCE", 4)
    pieces = one.variations(base, texts).logits

    assert whole is not None and pieces is not None and torch.allclose(whole, pieces, atol=1e-5)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_other_precisions_keep_their_sites_and_agree_as_far_as_they_can(
    family: str, dtype: torch.dtype, within: float
) -> None:
    one = load(build(family).to(dtype), tokenizer=WordReader(WORDS), name=family)
    assert not one.refused, one.refused
    wanted = drawn_variants(one, 10, seed=3)
    planned = one.plan_sweep(TEXTS, wanted)
    assert not planned.why_plain
    logits = planned.run().logits
    whole = torch.stack([plain(one, variant) for variant in wanted])
    assert logits.dtype == dtype
    assert (logits - whole).abs().max() <= within * whole.abs().max()
