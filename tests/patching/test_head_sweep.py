"""A head sweep finds the one head that is wired to the answer, ablated or patched, and is what its parts give."""

from __future__ import annotations

import pytest
import torch
from tiny_models import subject
from tiny_pairs import ASKED, CLEAN, CORRUPT
from wired import pairs, wired

from veriscope.patching import ablation_scan, activation_patching, head_sweep
from veriscope.patching.gaps import BadChoice


@pytest.mark.parametrize("how", ["zero", "patch"])
def test_only_the_wired_head_matters(how: str) -> None:
    given = pairs()
    corrupt = given.pop("corrupt")

    found = head_sweep(
        wired("additive"), given["clean"], given["answers"], given["foils"], how=how,
        corrupt=corrupt if how == "patch" else None,
    )  # fmt: skip

    first, *others = found.top(4)
    assert (first["block"], first["head"]) == (0, 0) and first["effect_logits"] == pytest.approx(-4.0, abs=0.01)
    assert all(abs(row["effect_logits"]) < 1e-3 for row in others) and len(others) == 3
    if how == "zero":
        # a random direction that happens to hold what the MLP reads is as good, so few may reach the head itself
        assert first["direction_rank"] <= 10 and all(row["p"] > 0.5 for row in others)
        assert "random changes of equal norm" in str(found)


@pytest.mark.slow
def test_named_heads_are_the_cells_of_the_whole_sweep(tmp_path) -> None:
    one, named = subject("gpt2"), [(0, 1), (2, 1), (1, 3)]

    found = head_sweep(one, CLEAN, **ASKED, heads=named, how="zero")

    assert [(row["block"], row["head"]) for row in found.table()] == sorted(named) and len(found) == 3
    whole = ablation_scan(one, CLEAN, **ASKED, part="heads.z").effects_logits
    for row in found.table():
        assert row["effect_logits"] == pytest.approx(float(whole[row["block"], row["head"], 0]), abs=1e-5)
    assert found.plot(tmp_path / "heads.svg").read_text(encoding="utf-8").count("<rect") == 1 + 3 + 11


def test_patching_heads_is_activation_patching_of_their_outputs() -> None:
    one = subject("neox")

    found = head_sweep(one, CLEAN, **ASKED, how="patch", corrupt=CORRUPT, positions=["last"], direction="denoising")

    plain = activation_patching(one, CLEAN, CORRUPT, **ASKED, part="heads.z", positions=["last"], direction="denoising")
    assert torch.equal(found.tables[0].gaps, plain.gaps)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"how": "patch"}, "give corrupt"),
        ({"corrupt": CORRUPT}, "only how='patch' uses"),
        ({"heads": []}, "at least one"),
        ({"heads": [(0, 9)]}, "units 0..3"),
        ({"heads": [(7, 0)]}, "blocks 0..2"),
        ({"controls": 5}, "without its controls"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, words: str) -> None:
    with pytest.raises(BadChoice, match=words):
        head_sweep(subject("gpt2"), CLEAN, **ASKED, **changed)
