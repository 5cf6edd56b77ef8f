"""The truth of bridging beds, measured by turning planted neurons over and not through the verifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from veriscope.findings import Change
from veriscope.methods import LogisticProbe
from veriscope.zoo.bridge import BUILDS, plantings, represents, steers
from veriscope.zoo.bridge.bed import COPY, LATE, UNUSED, USED, Bridge
from veriscope.zoo.bridge.plant import run, turned
from veriscope.zoo.bridge.texts import models, real_folder
from veriscope.zoo.planted_information import bits_of_gap

HOSTS = [
    "town",
    pytest.param(
        "stories260k", marks=pytest.mark.skipif(not real_folder(), reason="VERISCOPE_DATA has no stories260k")
    ),
]


def answered(bed: Bridge) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Logits of "1" over "0" on texts that sizes were not measured on; the same with each feature turned; its value."""
    planted, anatomy = bed.planted, bed._anatomy
    ids = bed.ids([text for text, _, _ in bed.texts])
    head = anatomy.module.get_output_embeddings().weight.detach()
    zero, one = ([bed.token(word) for word in group] for group in bed.answers)
    reader = head[one].mean(0) - head[zero].mean(0)
    found = {}
    for feature, neurons in planted.neurons.items():
        with turned(anatomy, neurons):
            found[feature] = run(anatomy, ids).final @ reader
    return run(anatomy, ids).final @ reader, found, 2.0 * bed.value(bed.carried(ids)[1], USED) - 1


@pytest.mark.parametrize("model", HOSTS)
def test_the_answer_follows_the_variable_and_turns_with_it(model: str) -> None:
    bed = Bridge(seed=5, model=model, rows=200, also=(UNUSED, COPY))

    plain, turned_over, value = answered(bed)

    assert float(((plain > 0) == (value > 0)).double().mean()) > 0.95
    assert float(((turned_over[USED] > 0) == (value < 0)).double().mean()) > 0.85
    for unread in (UNUSED, COPY):
        assert float(((turned_over[unread] > 0) == (value > 0)).double().mean()) > 0.9


@pytest.mark.parametrize("model", HOSTS)
def test_what_is_computed_again_behind_the_site_carries_the_rest(model: str) -> None:
    bed = Bridge(seed=6, model=model, rows=200, through=0.25)

    plain, turned_over, value = answered(bed)

    moved = {f: float((value * (plain - turned_over[f])).mean()) for f in (USED, LATE)}
    assert moved[USED] / (moved[USED] + moved[LATE]) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("excess", [0.1, 0.4])
def test_the_other_value_turns_as_many_answers_as_is_asked_for(excess: float) -> None:
    bed = Bridge(seed=7, rows=600, excess=excess)

    plain, turned_over, value = answered(bed)

    against = plain * value > 0  # the new value speaks against the answer that was given
    assert float((turned_over[USED] * value < 0)[against].double().mean()) == pytest.approx(0.5 + excess, abs=0.1)


# ---- C4: what an added vector does to the answer words, beyond random vectors of its length

WORKING = 2.0


def added(bed: Bridge, vector: torch.Tensor, variable: str = USED, n: int = 80) -> dict[str, torch.Tensor]:
    """Change of each text's answers and of each word of "1" against all tokens; the best random vector's; nats."""
    head = bed._anatomy.module.get_output_embeddings().weight.detach()
    zero, one = ([bed.token(word) for word in group] for group in bed.answers)
    reader = head[one].mean(0) - head[zero].mean(0)
    ids = bed.ids([text for text, _, _ in bed.language.texts(3 * n, bed.seed + 9_000_000, bed.final)])
    value = bed.value(bed.carried(ids)[1], variable)
    ids = [row for row, is_one in zip(ids, value.tolist(), strict=True) if not is_one][:n]
    cut = [row[: 4 + i % (len(row) - 4)] for i, row in enumerate(ids)]

    def after(rows: list[list[int]], push: torch.Tensor) -> torch.Tensor:
        return run(bed._anatomy, rows, (bed.block, lambda h: h + push)).final

    none = torch.zeros_like(vector)
    moved = after(ids, vector) - after(ids, none)
    plain, costs = ((after(cut, push) @ head.T).log_softmax(-1) for push in (none, vector))
    drawn = torch.randn(120, len(vector), generator=torch.Generator().manual_seed(1))
    drawn = drawn / drawn.norm(dim=1, keepdim=True) * vector.norm()
    before = after(ids[:6], none)
    chance = torch.stack([((after(ids[:6], v) - before) @ reader).mean() for v in drawn])
    return {
        "answers": moved @ reader,
        "words": (moved @ head[one].T - (moved @ head.T).mean(1, keepdim=True)).mean(0),
        "excess": (moved @ reader).mean() - 2.97 * chance.square().mean().sqrt(),  # the best of 200 Gaussians
        "nats": (plain.exp() * (plain - costs)).sum(-1).mean(),
    }


@pytest.fixture
def beds(monkeypatch: pytest.MonkeyPatch) -> list[Bridge]:
    """The beds that claims are built on, in turn."""
    found: list[Bridge] = []

    def kept(**dials: Any) -> Bridge:
        found.append(Bridge(**dials))
        return found[-1]

    monkeypatch.setattr("veriscope.zoo.bridge.Bridge", kept)
    return found


def settings_of(claim_type: str, grade: str, trap: str) -> dict[str, Any]:
    kinds = plantings(claim_type, 1, seed=61)
    return dict(next(p for p in kinds if p.grade == grade and p.trap.startswith(trap)).settings)


def steering(grade: str, trap: str) -> torch.Tensor:
    """The vector of a planted claim, towards its side."""
    settings = settings_of("C4", grade, trap)
    claim, _ = steers(**settings)
    change = claim.finding if isinstance(claim.finding, Change) else claim.finding.as_change("add", "1")
    assert change.vector is not None
    return change.vector.float() * (-1 if settings.get("made") == "backwards" else 1)


@pytest.mark.parametrize("times", [1, 4])
def test_the_largest_dose_moves_the_answers_by_as_much_as_is_asked_for_beyond_random_ones(
    times: int, beds: list[Bridge]
) -> None:
    vector = steering(f"T1x{times}", "at")

    found = added(beds[0], WORKING * vector)

    assert float(found["excess"]) == pytest.approx(0.5 * times, abs=0.1 + 0.05 * times)
    assert float(found["nats"]) < 0.016


@pytest.mark.parametrize(
    "grade, trap",
    [("F0", "random"), ("F0", "fitted on shuffled"), ("F1", "unread"), ("F1", "bypass"), ("F3", "size"),
     ("T0", "used"), ("T2", "negative doses")],
)  # fmt: skip
def test_a_steering_claim_is_true_only_where_its_vector_beats_random_ones_by_what_is_claimed(
    grade: str, trap: str, beds: list[Bridge]
) -> None:
    vector = steering(grade, trap)

    found = added(beds[0], WORKING * vector, settings_of("C4", grade, trap)["variable"])

    if grade.startswith("F"):
        assert float(found["excess"]) < (6.0 if grade == "F3" else 0.0)  # claimed: 8 and 0.5
    else:
        assert float(found["excess"]) > 1.0 and float(found["nats"]) < 0.016


def test_a_direction_that_one_word_reads_moves_no_other_word_of_its_value(beds: list[Bridge]) -> None:
    vector = steering("F2", "writes one word")

    words = added(beds[0], vector / 4)["words"]

    assert float(words.max()) > 1.5 and float(words.sort().values[:-1].mean()) < 0.1


def test_a_vector_turns_half_of_the_texts_the_other_way(beds: list[Bridge]) -> None:
    vector = steering("F2", "the other way")

    answers = added(beds[0], WORKING * vector, n=150)["answers"]

    assert 0.35 < float((answers < -0.3).double().mean()) < 0.65


# ---- C1: what can be read


def reading(bed: Bridge, n: int = 2_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations at the site and at the block before it on texts that no size was measured on, and the value."""
    ids = bed.ids([text for text, _, _ in bed.language.texts(n, bed.seed + 9_000_000, bed.final)])
    stream = run(bed._anatomy, ids, upto=bed.block).stream
    return stream[bed.block], stream[bed.block - 1], bed.value(bed.carried(ids)[1], USED)


def told(score: torch.Tensor, value: torch.Tensor) -> float:
    """Bits of a score whose two classes are Gaussian."""
    gap = (score[value].mean() - score[~value].mean()) / (score[value].var() / 2 + score[~value].var() / 2).sqrt()
    return bits_of_gap(abs(float(gap)))


@pytest.mark.parametrize("bits", [0.1, 0.4])
def test_a_probe_fitted_on_dev_has_as_many_bits_as_were_planted(bits: float) -> None:
    bed = Bridge(seed=9, rows=2_000, bits=bits)
    assert bed.planted
    h, before, value = reading(bed)

    train = (torch.arange(len(h)) < 1_000)[None]
    scores = (
        LogisticProbe(site="").weights(x, value.long()[None], train, n_classes=2).score(x)[0, :, 0] for x in (h, before)
    )
    here, there = (told(score[1_000:], value[1_000:]) for score in scores)

    assert here == pytest.approx(bits, rel=0.35)
    assert there < 0.02  # before it is computed


def test_a_false_reading_of_a_variable_that_is_there_has_next_to_nothing_of_it(beds: list[Bridge]) -> None:
    claim, _ = represents(**settings_of("C1", "F0", "reader fitted on shuffled"))

    h, _, value = reading(beds[0])

    assert told(claim.finding.score(h)[:, 0], value) < 0.025


def test_rows_say_which_model_they_are_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("VERISCOPE_DATA", raising=False)

    alone = [p for kind in BUILDS for p in plantings(kind, 1, seed=1)]

    assert list(models()) == ["town"] and "plants in town alone" in caplog.text
    assert all(p.trap.endswith("(town)") for p in alone)
    assert {p.grade for p in alone} >= {"F0", "F1", "F2", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2"}


@pytest.mark.parametrize("claim_type", BUILDS)
def test_final_claims_are_of_another_variant_other_blocks_and_other_sentences(claim_type: str) -> None:
    dev, final = (dict(plantings(claim_type, 1, seed=1, final=f)[0].settings) for f in (False, True))

    def bed(settings: dict[str, Any]) -> Bridge:
        return Bridge(seed=int(settings["seed"]), final=bool(settings["final"]), rows=50)

    assert bed(dev).site != bed(final).site
    assert not {form for _, form, _ in bed(dev).texts} & {form for _, form, _ in bed(final).texts}
