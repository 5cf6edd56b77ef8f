"""The bridging beds: answers follow what is planted, by turning planted neurons over and not through the verifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from veriscope.zoo.bridge import BUILDS, plantings
from veriscope.zoo.bridge.bed import COPY, LATE, UNUSED, USED, Bridge
from veriscope.zoo.bridge.plant import pushed, run, turned
from veriscope.zoo.bridge.texts import models


def answered(bed: Bridge) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Logits of "1" over "0" on texts that sizes were not measured on; the same with each feature turned; its value."""
    planted, anatomy = bed.planted, bed.anatomy
    ids = bed.ids([text for text, _, _ in bed.texts])
    head = anatomy.module.get_output_embeddings().weight.detach()
    zero, one = ([bed.token(word) for word in group] for group in bed.answers)
    reader = head[one].mean(0) - head[zero].mean(0)
    found = {}
    for feature, neurons in planted.neurons.items():
        with turned(anatomy, neurons):
            found[feature] = run(anatomy, ids).final @ reader
    return run(anatomy, ids).final @ reader, found, 2.0 * bed.value(bed.carried(ids)[1], USED) - 1


@pytest.mark.parametrize("model", models())
def test_the_answer_follows_the_variable_and_turns_with_it(model: str) -> None:
    bed = Bridge(seed=5, model=model, rows=200, also=(UNUSED, COPY))

    plain, turned_over, value = answered(bed)

    assert float(((plain > 0) == (value > 0)).double().mean()) > 0.95
    assert float(((turned_over[USED] > 0) == (value < 0)).double().mean()) > 0.85
    for unread in (UNUSED, COPY):
        assert float(((turned_over[unread] > 0) == (value > 0)).double().mean()) > 0.9


def test_what_is_computed_again_behind_the_site_carries_the_rest() -> None:
    bed = Bridge(seed=6, rows=200, through=0.25)

    plain, turned_over, value = answered(bed)

    moved = {f: float((value * (plain - turned_over[f])).mean()) for f in (USED, LATE)}
    assert moved[USED] / (moved[USED] + moved[LATE]) == pytest.approx(0.25, abs=0.08)


def test_many_vectors_do_what_each_does_in_a_run_of_its_own() -> None:
    bed = Bridge(seed=6, rows=200, through=0.25)
    ids = bed.sample[:3]
    vectors = torch.randn(2, bed.anatomy.module.config.hidden_size, generator=torch.Generator().manual_seed(0))

    found = pushed(bed.anatomy, ids, bed.block, vectors)

    for vector, final in zip(vectors, found, strict=True):
        alone = run(bed.anatomy, ids, (bed.block, lambda h, v=vector: h + v)).final
        assert torch.allclose(final, alone, atol=1e-4) and not torch.allclose(final, run(bed.anatomy, ids).final)


def test_rows_say_which_model_they_are_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("VERISCOPE_DATA", raising=False)

    alone = [p for kind in BUILDS for p in plantings(kind, 1, seed=1)]

    assert list(models()) == ["town"] and "plants in town alone" in caplog.text
    assert {dict(p.settings)["model"] for p in alone} == {"town"}
    assert {p.grade for p in alone} >= {"F0", "F1", "F2", "F3", "T0", "T2"}


@pytest.mark.parametrize("claim_type", BUILDS)
def test_final_claims_are_of_another_variant_other_blocks_and_other_sentences(claim_type: str) -> None:
    dev, final = (dict(plantings(claim_type, 1, seed=1, final=f)[0].settings) for f in (False, True))

    def bed(settings: dict[str, Any]) -> Bridge:
        return Bridge(seed=int(settings["seed"]), final=bool(settings["final"]), rows=50)

    assert bed(dev).site != bed(final).site
    assert not {form for _, form, _ in bed(dev).texts} & {form for _, form, _ in bed(final).texts}
