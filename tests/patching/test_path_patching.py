"""Path patching keeps to its paths: what lies upstream gets nothing, and all that lies downstream gets everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import subject
from tiny_pairs import CLEAN, CORRUPT, PAIRS, UNEVEN, gaps

from veriscope.errors import UnknownSite, UserError
from veriscope.patching import activation_patching, path_patching
from veriscope.patching.gaps import BadChoice
from veriscope.subjects import Add, Edit, Read, SetTo

FAMILIES = ("gpt2", "neox", "gemma3")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("texts", [PAIRS, UNEVEN])
@pytest.mark.parametrize("receiver", ["blocks.0.resid_post", "blocks.1.resid_pre"])
def test_through_everything_downstream_it_is_plain_patching(family: str, texts: dict, receiver: str) -> None:
    one = subject(family)

    found = path_patching(one, **texts, sender=(0, 2), receivers=[receiver])

    plain = activation_patching(one, **texts, part="heads.z", blocks=[0], units=[2], positions=["all"])
    assert plain.changes_logits.abs().max() > 1e-3
    assert torch.allclose(found.gaps, plain.gaps[0, 0, 0], atol=1e-5)
    assert found.effect.value == pytest.approx(float(plain.effects), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("receiver", ["blocks.0.heads.q", "blocks.1.heads.v", "blocks.1.resid_pre", "blocks.0.mlp_out"])
def test_a_receiver_before_the_sender_gets_nothing(family: str, receiver: str) -> None:
    found = path_patching(subject(family), **PAIRS, sender=(1, 1), receivers=[receiver])

    assert torch.allclose(found.changes_logits, torch.zeros(3), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_else_frozen_the_direct_path_adds_what_the_sender_writes(family: str) -> None:
    one = subject(family)

    found = path_patching(one, **PAIRS, sender=(0, 2), receivers=["blocks.2.resid_post"], mlps="frozen")

    z = one.run(CORRUPT, read=["blocks.0.heads.z"])["blocks.0.heads.z"][:, :, [2]]
    edit = Edit("blocks.0.heads.z", SetTo(z), units=(2,))
    site = "blocks.0.attn_out"
    written = one.run(CLEAN, read=[site], edits=[edit])[site] - one.run(CLEAN, read=[site])[site]
    assert torch.allclose(found.gaps, gaps(one, CLEAN, Edit("blocks.2.resid_post", Add(written))), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_runs_of_the_recipe_give_by_hand(family: str) -> None:
    one = subject(family)
    clean_z = one.run(CLEAN, read=[f"blocks.{n}.heads.z" for n in range(3)])
    corrupt_z = one.run(CORRUPT, read=["blocks.0.heads.z"])["blocks.0.heads.z"]
    mixed = clean_z["blocks.0.heads.z"].clone()
    mixed[:, :, 3] = corrupt_z[:, :, 3]
    frozen = [Edit(f"blocks.{n}.heads.z", SetTo(clean_z[f"blocks.{n}.heads.z"])) for n in (1, 2)]
    hop = one.run(CLEAN, read=["blocks.2.heads.q"], edits=[Edit("blocks.0.heads.z", SetTo(mixed)), *frozen])
    q = hop["blocks.2.heads.q"][:, :, [1]]

    found = path_patching(one, **PAIRS, sender=(0, 3), receivers=[Read("blocks.2.heads.q", units=(1,))])

    expected = gaps(one, CLEAN, Edit("blocks.2.heads.q", SetTo(q), units=(1,)))
    assert torch.allclose(found.gaps, expected, atol=1e-5)
    assert (expected - gaps(one, CLEAN)).abs().max() > 1e-4
    assert "blocks.0.heads.z[3] through blocks.2.heads.q[1]" in str(found)


def test_a_head_that_receives_is_not_frozen_and_one_that_does_not_is() -> None:
    one = subject("gpt2")
    sent = {"sender": (0, 1), "mlps": "frozen"}

    one_head = path_patching(one, **PAIRS, **sent, receivers=[Read("blocks.1.heads.z", units=(2,))])
    all_heads = path_patching(one, **PAIRS, **sent, receivers=["blocks.1.heads.z"])
    written = path_patching(one, **PAIRS, **sent, receivers=["blocks.1.attn_out"])

    assert one_head.changes_logits.abs().max() > 1e-4
    assert not torch.allclose(one_head.gaps, all_heads.gaps, atol=1e-4)
    assert torch.allclose(written.gaps, all_heads.gaps, atol=1e-5)


def test_only_the_positions_of_sender_and_receiver_count() -> None:
    one = subject("gpt2")
    late = Read("blocks.0.heads.z", at="last", units=(1,))

    nowhere = path_patching(one, **PAIRS, sender=late, receivers=[Read("blocks.1.heads.k", at=0)])
    there = path_patching(one, **PAIRS, sender=late, receivers=["blocks.1.heads.k"])

    assert torch.allclose(nowhere.changes_logits, torch.zeros(3), atol=1e-5)
    assert there.changes_logits.abs().max() > 1e-5


def test_denoising_goes_the_other_way_and_an_mlp_can_send() -> None:
    one = subject("neox")

    found = path_patching(
        one, **PAIRS, sender="blocks.1.mlp_out", receivers=["blocks.2.resid_pre"], direction="denoising", mlps="frozen"
    )

    plain = activation_patching(one, **PAIRS, part="mlp_out", blocks=[1], positions=["all"], direction="denoising")
    assert torch.allclose(found.gaps, plain.gaps[0, 0, 0], atol=1e-5)
    assert torch.allclose(found.base, gaps(one, CORRUPT), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"sender": (0, 4)}, BadChoice, "heads 0..3"),
        ({"sender": (9, 0)}, UnknownSite, "no site"),
        ({"sender": "embed"}, BadChoice, "inside the blocks"),
        ({"receivers": []}, BadChoice, "list of sites"),
        ({"receivers": "blocks.1.heads.q"}, BadChoice, "list of sites"),
        ({"receivers": ["blocks.1.heads.w"]}, UnknownSite, "Did you mean"),
        ({"receivers": ["logits"]}, BadChoice, "inside the blocks"),
        ({"mlps": "gone"}, BadChoice, "'recomputed'"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, error: type[UserError], words: str) -> None:
    given = {"sender": (0, 1), "receivers": ["blocks.1.heads.q"], **changed}

    with pytest.raises(error, match=words):
        path_patching(subject("gpt2"), **PAIRS, **given)


def test_a_result_is_frozen_and_can_be_compared_by_its_parts() -> None:
    found = path_patching(subject("gpt2"), **PAIRS, sender=(0, 1), receivers=["blocks.1.heads.q"])

    assert replace(found, direction="denoising").base is found.corrupt
