"""Each kind of edit against a value worked out by hand, at chosen positions and units, and in what follows it."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
from torch import Tensor

from veriscope.errors import BadEdit, BadPosition
from veriscope.subjects import Add, Edit, Erase, Mean, Onto, Read, Resample, SetTo, Span, Swap, Zero
from veriscope.subjects.edits import How

TEXTS = tiny.RAGGED
SITE = "blocks.1.resid_post"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(width: int, rank: int) -> Tensor:
    return torch.linalg.qr(draw(width, rank)).Q


def by_hand() -> dict[str, tuple[How, object]]:
    vector, values, origin, basis = draw(32), draw(4, 32, seed=1), draw(32, seed=2), orthonormal(32, 3)
    skew, left, right = draw(32, 2, seed=3), draw(32, 2, seed=4), draw(2, 32, seed=5)
    span = torch.linalg.qr(skew).Q
    return {
        "add": (Add(vector), lambda h: h + vector),
        "add to each": (Add(values), lambda h: h + values),
        "set": (SetTo(vector), lambda h: vector.expand_as(h)),
        "set each": (SetTo(values), lambda h: values),
        "zero": (Zero(), torch.zeros_like),
        "mean": (Mean(vector), lambda h: vector.expand_as(h)),
        "resample": (Resample(values), lambda h: values),
        "project out": (Erase(basis, basis.T, origin), lambda h: h - (h - origin) @ basis @ basis.T),
        "erase obliquely": (Erase(left, right, origin), lambda h: h - (h - origin) @ right.T @ left.T),
        "project onto": (Onto(skew, origin), lambda h: origin + (h - origin) @ span @ span.T),
        "swap": (Swap(values), lambda h: values),
        "swap a subspace": (Swap(values, skew), lambda h: h + (values - h) @ span @ span.T),
    }


@pytest.mark.parametrize("kind", by_hand())
def test_an_edit_does_what_it_says(kind: str) -> None:
    how, expected = by_hand()[kind]
    subject = tiny.subject("gpt2")
    before = subject.acts(TEXTS, SITE)

    run = subject.run(TEXTS, read=[Read(SITE, "last"), Read(SITE, "all")], edits=[Edit(SITE, how, at="last")])

    torch.testing.assert_close(run.reads[0][1], expected(before), atol=2e-5, rtol=0)
    earlier = subject.run(TEXTS, read=[SITE])[SITE]
    untouched = run.mask & ~(run.mask & (run.mask.cumsum(1) == run.mask.sum(1, keepdim=True)))
    assert torch.equal(run.reads[1][1][untouched], earlier[untouched])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_edits_that_change_nothing_change_nothing(family: str) -> None:
    subject = tiny.subject(family)
    outcome = "logits" if subject.has_logits else "blocks.2.resid_post"
    own = subject.run(TEXTS, read=list(subject.sites))
    plain = own[outcome]

    for name, site in subject.sites.items():
        if name.startswith(("blocks.0", "blocks.2")):
            continue
        same = subject.run(TEXTS, read=[outcome], edits=[Edit(name, Add(0.0)), Edit(name, Swap(own[name]))])[outcome]

        scale = float(plain.abs().max().clamp_min(1.0))
        torch.testing.assert_close(same, plain, atol=2e-6 * scale, rtol=0, msg=lambda m, s=site: f"{s.name}: {m}")


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_a_full_patch_from_a_donor_gives_the_donors_logits(family: str) -> None:
    subject = tiny.subject(family)
    donors = ["w1 w8 w9", "w3 w2 w1 w7 w7 w7 w7 w2 w30", "w40 w2", "w8 w11 w3 w4 w2 w9 w9"]
    wanted = subject.run(donors, read=["embed", "blocks.2.resid_post"], logits="last")

    late = Edit("blocks.2.resid_post", Swap(wanted["blocks.2.resid_post"]))
    early = Edit("embed", Resample(wanted["embed"]))

    for edit in (late, early):
        got = subject.run(TEXTS, edits=[edit], logits="last").logits
        torch.testing.assert_close(got, wanted.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_an_edit_reaches_later_positions_only(family: str) -> None:
    subject = tiny.subject(family)
    text = [TEXTS[3]]
    plain = subject.run(text, logits="all").logits
    sites = [name for name in subject.sites if name.startswith(("blocks.1", "embed")) and "pattern" not in name]

    for name in sites:
        changed = subject.run(text, edits=[Edit(name, Add(draw(subject.sites[name].size)), at=3)], logits="all").logits

        torch.testing.assert_close(changed[:, :3], plain[:, :3], atol=1e-6, rtol=0)
        only_later = name.endswith(("heads.k", "heads.v"))
        there = 3 if not only_later else slice(3, None)
        assert (changed[:, there] - plain[:, there]).abs().max() > 1e-4, name


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox_sequential", "bert"])
def test_an_edit_between_attention_and_mlp_reaches_the_stream_and_the_mlp(family: str) -> None:
    subject = tiny.subject(family)
    block = "blocks.1"
    plain = subject.run(TEXTS, read=[f"{block}.resid_mid", f"{block}.mlp_out"])

    sites = [f"{block}.{tail}" for tail in ("resid_mid", "mlp_out", "resid_post")]
    run = subject.run(TEXTS, read=sites, edits=[Edit(sites[0], Add(draw(32)))])

    real = run.mask
    torch.testing.assert_close(run[sites[0]][real], (plain[sites[0]] + draw(32))[real], atol=1e-5, rtol=0)
    assert (run[sites[1]] - plain[sites[1]])[real].abs().max() > 1e-3
    stream = run[sites[0]] + run[sites[1]]
    if family == "bert":
        stream = subject.module.bert.encoder.layer[1].output.LayerNorm(stream)
    torch.testing.assert_close(stream[real], run[sites[2]][real], atol=1e-5, rtol=0)


def test_edits_at_the_parts_of_attention_follow_through() -> None:
    subject = tiny.subject("llama")
    block = "blocks.0.heads"
    plain = subject.run(TEXTS, read=[f"{block}.pattern", f"{block}.v"])
    uniform = plain[f"{block}.pattern"].gt(0).float()
    uniform = uniform / uniform.sum(-1, keepdim=True).clamp_min(1)

    run = subject.run(
        TEXTS,
        read=[f"{block}.z", f"{block}.v"],
        edits=[Edit(f"{block}.pattern", SetTo(uniform)), Edit(f"{block}.v", Zero(), units=(1,))],
    )

    value = plain[f"{block}.v"].clone()
    value[:, :, 1] = 0
    expected = (uniform @ value.transpose(1, 2).repeat_interleave(2, dim=1)).transpose(1, 2)
    torch.testing.assert_close(run[f"{block}.z"], expected, atol=1e-5, rtol=0)


def test_units_are_heads_or_coordinates() -> None:
    subject = tiny.subject("gpt2")
    heads, neurons = "blocks.1.heads.z", "blocks.1.mlp.act"
    plain = subject.run(TEXTS, read=[heads, neurons])
    edits = [Edit(heads, Mean(draw(2, 8)), units=(0, 2)), Edit(neurons, SetTo(5.0), at="last", units=(7, 3))]

    run = subject.run(TEXTS, read=[heads, neurons], edits=edits)

    real = run.mask
    torch.testing.assert_close(run[heads][real][:, [0, 2]], draw(2, 8).expand(int(real.sum()), 2, 8))
    assert torch.equal(run[heads][real][:, [1, 3]], plain[heads][real][:, [1, 3]])
    last = subject.run(TEXTS, read=[Read(neurons, "last")], edits=[edits[1]])[neurons]
    assert (last[:, [3, 7]] == 5.0).all() and not (last[:, [2, 4]] == 5.0).any()


def test_head_values_may_stand_side_by_side() -> None:
    subject = tiny.subject("gpt2")
    site, flat = "blocks.1.heads.z", draw(4, 32)

    one = subject.run(TEXTS[:3], edits=[Edit(site, SetTo(flat[:3]), at="last")], logits="last").logits
    two = subject.run(TEXTS[:3], edits=[Edit(site, SetTo(flat[:3].view(3, 4, 8)), at="last")], logits="last").logits
    whole = subject.run(TEXTS, read=[Read(site, "last")], edits=[Edit(site, Onto(orthonormal(32, 2), draw(32)))])[site]

    assert torch.equal(one, two)
    off = (whole.flatten(1) - draw(32)) - (whole.flatten(1) - draw(32)) @ orthonormal(32, 2) @ orthonormal(32, 2).T
    assert off.abs().max() < 1e-5


def test_spans_and_masks_choose_stretches() -> None:
    subject = tiny.subject("gpt2")
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[0, 1] = mask[1, 2:4] = mask[3, 5:] = True

    span = subject.run(TEXTS, read=[SITE], edits=[Edit(SITE, Zero(), at=Span(1, [2, -1, 2, 4]))])[SITE]
    masked = subject.run(TEXTS, read=[SITE], edits=[Edit(SITE, Zero(), at=mask)])

    zero = (span == 0).all(-1)
    assert zero.int().tolist()[1] == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert zero[3, :7].int().tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert torch.equal(((masked[SITE] == 0).all(-1)) & masked.mask, mask & masked.mask)


def test_edits_on_one_site_apply_in_order() -> None:
    subject = tiny.subject("gpt2")

    run = subject.run(TEXTS, read=[Read(SITE, "last")], edits=[Edit(SITE, SetTo(1.0)), Edit(SITE, Add(2.0))])
    other = subject.run(TEXTS, read=[Read(SITE, "last")], edits=[Edit(SITE, Add(2.0)), Edit(SITE, SetTo(1.0))])

    assert (run[SITE] == 3.0).all() and (other[SITE] == 1.0).all()


def test_logits_can_be_read_and_edited_as_a_site() -> None:
    subject = tiny.subject("gemma2")
    plain = subject.run(TEXTS, logits="last").logits

    run = subject.run(TEXTS, read=[Read("logits", "last")], edits=[Edit("logits", Add(1.0))], logits="last")

    torch.testing.assert_close(run.logits, plain + 1.0)
    assert torch.equal(run["logits"], run.logits)


def test_a_gradient_is_the_slope_of_the_logit_gap() -> None:
    subject = tiny.subject("llama")
    answers, foils, direction = torch.tensor([1, 2, 3, 4]), torch.tensor([9, 8, 7, 6]), draw(32)

    for site, at in ((SITE, "last"), ("blocks.0.resid_pre", 0), ("blocks.1.heads.z", 1), ("final_norm", "last")):
        slope = subject.gradient(TEXTS, site, at, answers, foils) @ direction

        def gap(dose: float, site: str = site, at: object = at) -> Tensor:
            run = subject.run(TEXTS, edits=[Edit(site, Add(dose * direction), at=at)], logits="last")
            return run.logits.gather(1, answers[:, None])[:, 0] - run.logits.gather(1, foils[:, None])[:, 0]

        torch.testing.assert_close(slope, (gap(1e-2) - gap(-1e-2)) / 2e-2, atol=2e-2, rtol=2e-2)


def test_a_graph_can_be_kept() -> None:
    subject = tiny.subject("gpt2")
    dose = torch.zeros(32, requires_grad=True)

    run = subject.run(TEXTS, read=[SITE], edits=[Edit(SITE, Add(dose))], logits="last", grad=True)
    run.logits[:, 0].sum().backward()

    assert dose.grad is not None and dose.grad.abs().max() > 0
    assert not subject.run(TEXTS, logits="last").logits.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "edit, said",
    [
        (
            Edit(SITE, Add(torch.zeros(31))),
            r"Add at blocks.1.resid_post takes values of shape \(32\) or \(4, 32\).*\(31,\)",
        ),
        (Edit(SITE, Swap(torch.zeros(3, 32))), r"shape \(4, 32\) for 4 prompts; got \(3, 32\)"),
        (Edit(SITE, Mean(torch.zeros(4, 32))), r"Mean at .* shape \(32\)"),
        (Edit(SITE, Zero(), units=(32,)), r"has units 0..31; units=\(32,\)"),
        (Edit(SITE, Onto(torch.zeros(16, 2), torch.zeros(16))), r"width 32; got \(16, 2\)"),
        (Edit(SITE, Swap(torch.zeros(4, 9, 32)), at="last"), r"values for every position, but `at` chooses one"),
        (Edit("blocks.1.heads.z", Add(torch.zeros(4, 8))), r"could mean one row for each head or for each example"),
    ],
)
def test_a_misfit_edit_says_what_fits(edit: Edit, said: str) -> None:
    with pytest.raises(BadEdit, match=said):
        tiny.subject("gpt2").run(TEXTS, edits=[edit])


@pytest.mark.parametrize(
    "at, said",
    [
        (5, r"Position 5 is outside prompt 0, which has 3 tokens \(2 of 4 prompts"),
        (-3, r"Position -3 is outside prompt 2"),
        ([0, 1], r"for 4 prompts: give one, or one each"),
        ("subject", r"ask subject.where\('subject', sample\) first"),
        (Span(2, 5), r"The span 2:5 is empty or outside prompt 0"),
    ],
)
def test_a_position_that_is_not_there_says_so(at: object, said: str) -> None:
    with pytest.raises(BadPosition, match=said):
        tiny.subject("gpt2").run(TEXTS, edits=[Edit(SITE, Zero(), at=at)])
