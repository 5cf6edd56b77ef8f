"""An ablation scan flags a planted unit, is quiet elsewhere, and its edits and controls are what they say."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import WORDS, build, subject
from tiny_pairs import ASKED, CLEAN, CORRUPT, RAGGED, gaps

from veriscope.errors import BadPosition, NotRun, UserError
from veriscope.patching import ablation_scan
from veriscope.patching.ablation import _Changes
from veriscope.patching.gaps import BadChoice, ask
from veriscope.patching.grid import lay_out
from veriscope.subjects import Edit, Mean, Resample, Subject, WordReader, Zero, load

SAME = {"answers": ("w3",) * 8, "foils": ("w5",) * 8}
TEXTS = tuple(f"w{4 + n} w{20 + n} w{9 + 2 * n} w{30 + n}" for n in range(8))
NEURON = 11


@cache
def planted() -> Subject:
    """Neuron 11 of the second block always fires and writes the difference of two words' unembeddings."""
    module = build("gpt2", seed=4)
    mlp, words = module.transformer.h[1].mlp, module.lm_head.weight
    with torch.no_grad():
        mlp.c_fc.weight[:, NEURON] = 0
        mlp.c_fc.bias[NEURON] = 3.0
        way = words[3] - words[5]
        mlp.c_proj.weight[NEURON] = 3 * way / way.norm()
    return load(module, tokenizer=WordReader(WORDS), name="planted")


@pytest.mark.slow
def test_a_planted_unit_is_flagged_and_others_are_not() -> None:
    units = [NEURON, 0, 1, 2, 3, 40, 41, 42, 43, 100, 101]

    found = ablation_scan(planted(), TEXTS, **SAME, part="mlp.act", blocks=[1], units=units, positions=["last"])

    flagged = found.flagged()
    assert flagged[0]["neuron"] == NEURON and len(flagged) <= 2
    assert flagged[0]["direction_rank"] == 1 and flagged[0]["p"] == pytest.approx(1 / 101)
    assert flagged[0]["effect_logits"] < 0 and flagged[0]["high"] < 0
    assert f"neuron {NEURON}" in str(found) and "random directions" in str(found)


@pytest.mark.slow
def test_where_nothing_was_planted_few_are_flagged() -> None:
    one = subject("gpt2")

    found = ablation_scan(one, TEXTS, **SAME, part="mlp.act", blocks=[1], units=range(20), positions=["last"])

    assert len(found.flagged(0.05)) <= 4
    assert float(found.p_values.median()) > 0.2


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3"])
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_every_ablation_is_a_plain_run_with_that_edit(family: str, how: str) -> None:
    one = subject(family)

    found = ablation_scan(one, CLEAN, **ASKED, part="heads.z", how=how, blocks=[1], positions=["last"], seed=1)

    site = "blocks.1.heads.z"
    z = one.run(CLEAN, read=[site])[site][:, -1]
    for head in range(2):
        own = z[:, [head]]
        drawn = [Resample(own[list(other)]) for other in product((1, 2), (0, 2), (0, 1))]
        ways = {"zero": [Zero()], "mean": [Mean(own.mean(0))], "resample": drawn}[how]
        plain = [gaps(one, CLEAN, Edit(site, way, at="last", units=(head,))) for way in ways]
        assert any(torch.allclose(found.gaps[0, head, 0], gap, atol=1e-5) for gap in plain)


def test_a_mean_at_all_positions_is_over_the_tokens_of_the_reference() -> None:
    one = subject("neox")

    found = ablation_scan(one, CLEAN, **ASKED, part="attn_out", how="mean", reference=RAGGED, blocks=[0])

    run = one.run(RAGGED, read=["blocks.0.attn_out"])
    mean = run["blocks.0.attn_out"][run.mask].mean(0)
    assert torch.allclose(found.gaps[0, 0, 0], gaps(one, CLEAN, Edit("blocks.0.attn_out", Mean(mean))), atol=1e-5)


@pytest.mark.parametrize("part", ["heads.z", "attn_out", "mlp.act"])
@pytest.mark.parametrize("positions", [["last"], ["all"], [1, "all"]])
def test_controls_have_the_norm_of_the_change(part: str, positions: list) -> None:

    one = subject("gpt2")
    asked = ask(one, RAGGED, ASKED["answers"], ASKED["foils"])
    chosen = {"blocks": [1], "units": [2] if part != "attn_out" else None}
    grid = lay_out(one, asked.lengths, part, **chosen, positions=positions)
    every = lay_out(one, asked.lengths, part, blocks=None, units=None, positions=positions)
    changes = _Changes(asked, grid, every, "zero", None, np.random.default_rng(0))

    for kind in ("direction", "elsewhere"):
        for cell, control in zip([c for c in grid for _ in range(5)], changes.controls(kind, 5), strict=True):
            (ablated,), (edit,) = changes.ablation(cell).edits, control.edits
            now = one.run(RAGGED, read=[ablated.site])[ablated.site]
            size = (one.run(RAGGED, read=[ablated.site], edits=[ablated])[ablated.site] - now).flatten(1).norm(dim=1)
            there = one.run(RAGGED, read=[edit.site])[edit.site]
            made = (one.run(RAGGED, read=[edit.site], edits=[edit])[edit.site] - there).flatten(1).norm(dim=1)
            assert torch.allclose(size, made, rtol=1e-3), (kind, cell)
            assert (edit.site == ablated.site and edit.at == ablated.at) == (kind == "direction")


def test_a_unit_that_is_silent_has_no_effect_and_no_case() -> None:
    module = build("gpt2")
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.weight[:, 5] = 0
        module.transformer.h[1].mlp.c_fc.bias[5] = 0
    one = load(module, tokenizer=WordReader(WORDS), name="silent")

    found = ablation_scan(one, CLEAN, **ASKED, part="mlp.act", blocks=[1], units=[5])

    assert float(found.effects_logits.abs().max()) < 1e-5 and float(found.p_values) == 1.0


def test_where_there_is_no_other_place_that_control_is_not_run() -> None:
    torch.manual_seed(0)
    module = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2,
                                              bos_token_id=None, eos_token_id=None))  # fmt: skip
    one = load(module.eval(), tokenizer=WordReader(WORDS), name="short")

    found = ablation_scan(one, CLEAN, **ASKED, part="heads.z")

    assert isinstance(found.controls_logits["elsewhere"], NotRun)
    assert isinstance(found.top(1)[0]["elsewhere_p"], NotRun) and found.top(1)[0]["p"] > 0


def test_the_heat_map_shows_what_exceeds_the_controls(tmp_path) -> None:
    found = ablation_scan(subject("gpt2"), CLEAN, **ASKED, part="heads.z", positions=["last"])

    assert "random changes of equal norm" in found.plot(tmp_path / "map.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"how": "noise"}, BadChoice, "'zero', 'mean' or 'resample'"),
        ({"controls": 99}, BadChoice, "without its controls"),
        ({"how": "mean", "reference": ()}, BadChoice, "list of texts"),
        ({"how": "mean", "reference": CORRUPT, "positions": [[1, 2, 0]]}, BadPosition, "reference=None"),
        ({"how": "resample", "reference": RAGGED}, BadPosition, "same number of tokens"),
        ({"part": "head"}, BadChoice, "it is one of"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, error: type[UserError], words: str) -> None:
    with pytest.raises(error, match=words):
        ablation_scan(subject("gpt2"), CLEAN, **ASKED, **{"part": "attn_out", **changed})
