"""Attribution patching: its gradient is the slope of plain runs, and the error it prints is the error there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import subject
from tiny_pairs import CLEAN, CORRUPT, PAIRS, UNEVEN, gaps

from veriscope.errors import NotRun, UserError
from veriscope.patching import activation_patching, attribution_patching
from veriscope.patching.gaps import BadChoice
from veriscope.subjects import Add, Edit, Span
from veriscope.trials.evidence import Estimate

FAMILIES = ("gpt2", "neox", "gemma3")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["resid_pre", "attn_out", "mlp_out", "heads.z", "heads.v", "mlp.act"])
def test_a_score_is_the_slope_of_plain_runs(family: str, part: str) -> None:
    one = subject(family)

    found = attribution_patching(one, **PAIRS, part=part, positions=[1, "last"], sample=3)

    step = 0.02
    for cell in list(found.grid)[:: 1 + len(found.grid) // 8]:
        block, unit, position = cell
        site, at = found.grid.site(block), found.grid.places[position]
        value = [one.run(texts, read=[site])[site][:, -1 if at == "last" else at] for texts in (CLEAN, CORRUPT)]
        way = value[1] - value[0]
        if found.grid.unit:
            way = way[:, [unit]]
        there, back = (gaps(one, CLEAN, Edit(site, Add(sign * step * way), at=at, units=found.grid.chosen(unit)))
                       for sign in (1, -1))  # fmt: skip
        assert torch.allclose(found.scores_logits[cell], (there - back) / (2 * step), atol=2e-3, rtol=0.02), cell


def test_between_attention_and_mlp_too() -> None:
    one = subject("gpt2")

    found = attribution_patching(one, **PAIRS, part="resid_mid", sample=15)

    assert isinstance(found.error.r, Estimate) and found.error.r.value > 0.8


@pytest.mark.parametrize("texts", [PAIRS, UNEVEN])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_along_a_site_add_up_to_patching_it_whole(family: str, texts: dict) -> None:
    one = subject(family)

    found = attribution_patching(one, **texts, part="mlp.act", positions=["all"], steps=16, along="site", sample=3)

    whole = activation_patching(one, **texts, part="mlp_out", positions=["all"])
    assert torch.allclose(found.scores_logits.sum(1)[:, 0], whole.changes_logits[:, 0], atol=5e-3)


@pytest.mark.parametrize("steps, along", [(0, "inputs"), (4, "inputs"), (4, "site")])
def test_the_printed_error_is_that_against_exact_patching(steps: int, along: str) -> None:
    one = subject("gpt2")

    found = attribution_patching(one, **PAIRS, part="heads.z", steps=steps, along=along, sample=12, seed=3)

    exact = activation_patching(one, **PAIRS, part="heads.z").effects
    of = torch.stack([exact[cell] for cell in found.error.cells])
    mine = torch.stack([found.scores[cell] for cell in found.error.cells])
    assert len(set(found.error.cells)) == 12 and found.error.of == 60
    assert torch.allclose(found.error.exact, of, atol=1e-5) and torch.allclose(found.error.scored, mine, atol=1e-6)
    assert isinstance(found.error.r, Estimate)
    assert found.error.r.value == pytest.approx(float(np.corrcoef(mine, of)[0, 1]), abs=1e-4)
    assert found.error.r.low <= found.error.r.value <= found.error.r.high
    assert found.error.mean_absolute.value == pytest.approx(float((mine - of).abs().mean()), abs=1e-5)
    assert "mean absolute error" in str(found) and f"{found.error.r.value:.4g}" in str(found)


@pytest.mark.slow
def test_more_steps_come_closer_where_the_effect_bends() -> None:
    one = subject("gpt2")

    found = [attribution_patching(one, **PAIRS, positions=["all"], sample=3, steps=n, along="site") for n in (0, 64)]

    rough, fine = (one.error.mean_absolute.value for one in found)
    assert fine < 0.02 < rough


def test_cells_that_were_not_patched_exactly_say_so() -> None:
    found = attribution_patching(subject("gpt2"), **PAIRS, part="heads.z", sample=5)

    rows = found.table()

    assert sum(isinstance(row["exact"], float) for row in rows) == 5
    assert sum(isinstance(row["exact"], NotRun) for row in rows) == 55


def test_the_same_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject("gpt2")
    named = {
        "positions": {"mine": [1, 0, 4], "all": "all", "from": Span([0, 1, 2])},
        "part": "heads.z",
        "sample": 3,
        "steps": 2,
    }
    whole = attribution_patching(one, **UNEVEN, **named)
    monkeypatch.setattr("veriscope.patching.attribution.TOKENS_AT_ONCE", 7)

    parts = attribution_patching(one, **UNEVEN, **named)

    assert torch.allclose(whole.scores_logits, parts.scores_logits, atol=1e-5)


def test_the_heat_map_carries_the_error(tmp_path) -> None:
    found = attribution_patching(subject("gpt2"), **PAIRS, sample=5)

    assert "mean absolute error" in found.plot(tmp_path / "map.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": -1}, "plain gradient"),
        ({"along": "edges"}, "'inputs' or 'site'"),
        ({"sample": 0}, "without its error"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, words: str) -> None:
    assert issubclass(BadChoice, UserError)

    with pytest.raises(BadChoice, match=words):
        attribution_patching(subject("gpt2"), **PAIRS, **changed)
