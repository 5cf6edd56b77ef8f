"""On the model that ships: attribution agrees with exact patching, and the second mention of a name is what matters."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from veriscope.patching import activation_patching, attribution_patching, edge_attribution
from veriscope.subjects import load
from veriscope.trials.evidence import Estimate
from veriscope.zoo.tables import town


def other_name_last(row: dict) -> str:
    """The same text with the answer named twice: then the foil is the right one."""
    words = row["text"].split()
    last = max(place for place, word in enumerate(words) if word == row["foil"])
    return " ".join([*words[:last], row["answer"], *words[last + 1 :]])


def ioi() -> dict[str, list[str]]:
    rows = town("ioi", 12, seed=0)
    return {
        "clean": [row["text"] for row in rows],
        "corrupt": [other_name_last(row) for row in rows],
        "answers": [row["answer"] for row in rows],
        "foils": [row["foil"] for row in rows],
    }


@pytest.mark.slow
def test_integrated_edge_scores_hold_on_town_where_the_plain_gradient_does_not() -> None:
    plain, integrated = (edge_attribution(load("town"), **ioi(), steps=steps, sample=100) for steps in (0, 10))

    assert plain.error.large and not integrated.error.large
    assert integrated.error_at_top.mean_absolute.value < 0.05 < plain.error_at_top.mean_absolute.value
    strongest = integrated.top(1)[0]
    assert (strongest["sender"], strongest["receiver"]) == ("embed", "blocks.0.heads.v[0]")
    assert strongest["exact"] > 0.5


@pytest.mark.slow
def test_attribution_agrees_with_exact_patching_on_town() -> None:
    pairs = ioi()
    one = load("town")

    exact = activation_patching(one, **pairs, part="resid_mid")
    quick = attribution_patching(one, **pairs, part="resid_mid", steps=5, sample=20)

    assert float(exact.clean.mean()) > 5 and float(exact.corrupt.mean()) < -5
    assert float(torch.corrcoef(torch.stack([exact.effects.flatten(), quick.scores.flatten()]))[0, 1]) > 0.98
    assert isinstance(quick.error.r, Estimate) and quick.error.mean_absolute.value < 0.05
    assert exact.top(1)[0]["effect"] > 0.9


@pytest.mark.slow
def test_only_patching_brings_torch() -> None:
    code = "import sys, veriscope as vs; print('torch' in sys.modules); import veriscope.patching; "

    ran = subprocess.run([sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True)

    assert ran.stdout.split() == ["False", "True"]
