"""Activation patching is what plain runs with edits give, and its scale runs from the one run to the other."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from tiny_models import subject
from tiny_pairs import ANSWERS, ASKED, CLEAN, CORRUPT, FOILS, PAIRS, RAGGED, RAGGED_CORRUPT, UNEVEN, gaps

from veriscope.errors import BadAnswer, BadPosition, BadPrompt, UnknownSite, UserError
from veriscope.patching import activation_patching
from veriscope.patching.gaps import BadChoice, NoGap, UnequalPairs
from veriscope.subjects import Edit, SetTo, Span

WHOLE = ("resid_pre", "resid_post", "attn_out", "mlp_out")


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3"])
@pytest.mark.parametrize("part", [*WHOLE, "heads.z", "heads.k", "mlp.act"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_cell_is_a_plain_run_with_that_edit(family: str, part: str, direction: str) -> None:
    one = subject(family)
    into, source = (CLEAN, CORRUPT) if direction == "noising" else (CORRUPT, CLEAN)
    units = [0, 7] if part == "mlp.act" else None

    found = activation_patching(one, **PAIRS, part=part, direction=direction, units=units, positions=[0, 3, "last"])

    for cell in found.grid:
        block, unit, position = cell
        site, at = f"blocks.{block}.{part}", found.grid.places[position]
        value = one.run(source, read=[site])[site][:, -1 if at == "last" else at]
        if found.grid.unit:
            number = found.grid.units[unit]
            value = value[:, [number]]
        edit = Edit(site, SetTo(value), at=at, units=found.grid.chosen(unit))
        assert torch.allclose(found.gaps[cell], gaps(one, into, edit), atol=1e-5), cell


def test_between_attention_and_mlp_too() -> None:
    one = subject("gpt2")

    found = activation_patching(one, **PAIRS, part="resid_mid", positions=[-1])

    value = one.run(CORRUPT, read=["blocks.1.resid_mid"])["blocks.1.resid_mid"][:, -1]
    edit = Edit("blocks.1.resid_mid", SetTo(value), at="last")
    assert torch.allclose(found.gaps[1, 0, 0], gaps(one, CLEAN, edit), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3"])
@pytest.mark.parametrize("texts", [PAIRS, UNEVEN])
def test_the_whole_stream_at_all_positions_gives_exactly_the_other_run(family: str, texts: dict) -> None:
    one = subject(family)

    found = activation_patching(one, **texts, part="resid_pre", positions=["all", Span(0)], direction="denoising")

    assert found.effects.shape == (3, 2) and found.axes == ("block", "position")
    assert torch.allclose(found.effects, torch.ones(3, 2), atol=1e-4)
    assert torch.allclose(found.gaps[0, 0, 0], found.clean, atol=1e-5)


def test_a_run_patched_with_its_own_values_does_not_move() -> None:
    one = subject("gpt2")
    texts = (CORRUPT[0], *CLEAN[1:])

    found = activation_patching(one, **{**PAIRS, "corrupt": texts}, part="heads.z")

    assert found.changes_logits.shape == (3, 4, 5, 3)
    assert torch.allclose(found.changes_logits[..., 1:], torch.zeros(3, 4, 5, 2), atol=1e-5)
    assert found.changes_logits[..., 0].abs().max() > 0.01


def test_effects_are_shares_of_the_way_between_the_runs() -> None:
    one = subject("neox")

    found = activation_patching(one, **PAIRS, part="mlp_out", positions={"end": "last"})

    clean, corrupt = gaps(one, CLEAN), gaps(one, CORRUPT)
    expected = (found.gaps[2, 0, 0] - clean).mean() / (corrupt - clean).mean()
    assert torch.allclose(found.clean, clean, atol=1e-6) and torch.allclose(found.corrupt, corrupt, atol=1e-6)
    assert float(found.effects[2, 0]) == pytest.approx(float(expected), abs=1e-5)
    row = found.table()[2]
    assert (row["block"], row["position"]) == (2, "end")
    assert row["effect"] == pytest.approx(float(expected), abs=1e-5) and row["low"] <= row["effect"] <= row["high"]


def test_top_is_sorted_by_size_and_is_printed() -> None:
    found = activation_patching(subject("gpt2"), **PAIRS, part="heads.z", positions=["last"])

    top = found.top(4)

    sizes = [abs(row["effect"]) for row in top]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == pytest.approx(float(found.effects.abs().max()))
    assert set(top[0]) >= {"block", "head", "position", "effect", "low", "high", "effect_logits"}
    assert f"head {top[0]['head']}" in str(found)


def test_the_heat_map_is_one_svg_whose_texts_are_only_text(tmp_path: Path) -> None:
    nasty = "</text><script>alert(1)</script>\x07&\u202e"
    found = activation_patching(subject("gpt2"), **PAIRS, positions={nasty: "last", "first": 0})

    markup = found.plot(tmp_path / "map.svg").read_text(encoding="utf-8")

    root = ET.fromstring(markup)  # well formed
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "rect", "text"}
    assert len([e for e in root.iter() if e.tag.endswith("rect")]) == 1 + 3 * 2 + 11
    assert "http" not in markup.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(BadChoice, match=r"\.svg"):
        found.plot(tmp_path / "map.png")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"corrupt": (*CORRUPT[:2], "w1 w2")}, UnequalPairs, "Pair 2 has 5 tokens in the clean text and 2"),
        ({"corrupt": CORRUPT[:2]}, BadPrompt, "one for each"),
        ({"corrupt": CLEAN}, NoGap, "Choose corrupt texts that change"),
        ({"clean": CLEAN[0]}, BadPrompt, r"put them into \[ \]"),
        ({"clean": ()}, BadPrompt, "at least one"),
        ({"foils": ANSWERS}, BadAnswer, "begin with the same token"),
        ({"answers": ("w1",)}, BadAnswer, "give one for each"),
        ({"part": "resid"}, BadChoice, "Did you mean 'resid_"),
        ({"part": "mlp.act"}, BadChoice, "choose neurons"),
        ({"part": "heads.z", "units": [4]}, BadChoice, "0..3"),
        ({"units": [1]}, BadChoice, "patched whole"),
        ({"blocks": [3]}, BadChoice, "0..2"),
        ({"positions": [5]}, BadPosition, "outside prompt"),
        ({"positions": "last"}, BadPosition, "list of positions"),
        ({"direction": "up"}, BadChoice, "'noising'"),
        ({"clusters": ["a"]}, BadChoice, "one name for each of the 3"),
        ({"clean": RAGGED, "corrupt": RAGGED_CORRUPT}, BadPosition, r"positions=\[...\]"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, error: type[UserError], words: str) -> None:
    assert issubclass(error, UserError)

    with pytest.raises(error, match=words):
        activation_patching(subject("gpt2"), **{**PAIRS, **changed})


def test_a_site_that_the_model_does_not_have_says_why() -> None:
    with pytest.raises(UnknownSite, match="side by side"):
        activation_patching(subject("neox"), **PAIRS, part="resid_mid")


def test_a_bar_is_fed_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veriscope.patching.waiting.PATIENCE_S", -1.0)
    one = subject("gpt2")

    shown = activation_patching(one, CLEAN, CORRUPT, ASKED["answers"], FOILS, progress=True)

    assert torch.equal(shown.gaps, activation_patching(one, **PAIRS).gaps)
