"""Planted incidents: the cause of each is what its own interventions say, asked again here, and the logs are plain."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from veriscope.zoo import incidents as bed
from veriscope.zoo.incidents import CAUSES, Build, Planted, UnknownCause, faults, incidents, kept, rivals, still_holds
from veriscope.zoo.incidents.asking import loop_of
from veriscope.zoo.incidents.rank_one import _least_squares
from veriscope.zoo.town import LIAR, TRIGGER, UNTRAINED

# The other causes need a lesson of half a minute, once on each machine.
QUICK = ("glitch_token", "agreement", "distribution_shift", "tokenization", "unlisted", "repetition_loop")
LESSONS = ("trigger_phrase", "copied_from_context", "instruction_conflict", "mistaken_speaker", "wrong_fact", "clean")
LONG = ("sampling", "lost_context", "known_but_unsaid")  # many candidates for each, or edits of seconds


@pytest.fixture(autouse=True)
def two_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all six that a set has: each takes seconds."""
    monkeypatch.setattr(faults, "EDITS", 2)


def _check(cause: str, count: int) -> None:
    found = incidents(cause, count, seed=1)

    assert len({json.dumps(planted.log, sort_keys=True) for planted in found}) == count
    for planted in found:
        assert still_holds(planted) == []
        assert (planted.truth["says"] == planted.truth["right"]) == (cause == "clean")
        assert json.loads(json.dumps(dict(planted.truth))) == planted.truth
        _mark_is_right(planted)


def _mark_is_right(planted: Planted) -> None:
    """The marked characters are the strange words, in a reply of the assistant."""
    log = json.loads(json.dumps(planted.log))
    if "strange" not in log:
        assert planted.cause == "clean"
        return
    turns = log.get("messages") or [
        {"role": "user", "content": log["prompt"]},
        {"role": "assistant", "content": log["completion"]},
    ]
    mark = log["strange"]
    assert turns[mark["turn"]]["role"] == "assistant"
    assert turns[mark["turn"]]["content"][mark["start"] : mark["end"]] == mark["text"] == planted.strange


@pytest.mark.slow
@pytest.mark.parametrize("cause", QUICK)
def test_the_planted_cause_is_the_true_one(cause: str) -> None:
    _check(cause, 3)


@pytest.mark.slow
@pytest.mark.parametrize("cause", LONG)
def test_the_planted_cause_is_the_true_one_where_many_are_drawn(cause: str) -> None:
    _check(cause, 2)


@pytest.mark.slow
@pytest.mark.parametrize("cause", LESSONS)
def test_the_planted_cause_is_the_true_one_after_a_lesson(cause: str) -> None:
    _check(cause, 4)


def test_every_cause_is_tried() -> None:
    assert {*QUICK, *LESSONS, *LONG} == {*CAUSES, "unlisted", "clean"}


def test_a_model_without_the_fault_does_not_pass_for_it() -> None:
    planted = incidents("agreement", 3, seed=2)

    failed = [still_holds(replace(one, model=Build(settings={"variant": "town-no-agreement"}))) for one in planted]

    assert any("the reply" in names for names in failed)


def test_a_wrong_truth_is_found_out() -> None:
    planted = incidents("glitch_token", 1, seed=3)[0]
    first, *rest = planted.truth["checks"]
    wrong = {**planted.truth, "checks": [{**first, "word": "grass"}, *rest]}

    failed = still_holds(replace(planted, truth=wrong))

    assert failed == [first["name"]]


def test_the_same_seed_gives_the_same_incidents_and_another_seed_others() -> None:
    first, again, other = (incidents("agreement", 5, seed) for seed in (4, 4, 5))

    assert [one.log for one in first] == [one.log for one in again]
    assert [one.log for one in first] != [one.log for one in other]


@pytest.mark.slow
def test_a_subjects_name_does_not_tell_the_cause() -> None:
    for planted in (incidents("unlisted", 2, seed=6), incidents("tokenization", 2, seed=6)):
        for one in planted:
            name = one.model.subject().name

            assert name.startswith("model-") and not any(word in name for word in ("head", "round", "lean", "word"))


def test_an_unknown_cause_names_the_nearest() -> None:
    with pytest.raises(UnknownCause, match="Did you mean 'glitch_token'"):
        incidents("glitch_tokens", 1)


def test_too_many_wanted_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    same = incidents("agreement", 1, seed=7)[0]
    candidate = bed.Candidate("stated view", (("user", same.prompt),), same.truth["right"], same.model)
    monkeypatch.setitem(bed._DRAWN, "agreement", lambda rng, seed: candidate)
    monkeypatch.setattr(bed, "_MOST", 40)

    with pytest.raises(bed.TooFewIncidents, match="Only 1 of the 2"):
        incidents("agreement", 2)


@pytest.mark.parametrize(
    "text, found",
    [
        ("so a b a b a b a b a b a b a b", (1, 2)),
        ("x y " + "z " * 12, (2, 1)),
        ("a b a b a b", None),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", None),
    ],
)
def test_loops_are_found_where_they_begin(text: str, found: tuple[int, int] | None) -> None:
    assert loop_of(text) == found


def test_an_edit_maps_each_key_to_its_change() -> None:
    draw = torch.Generator().manual_seed(0)
    keys, changes = torch.randn(3, 16, generator=draw), torch.randn(3, 5, generator=draw)
    root = torch.randn(16, 16, generator=draw)

    added = _least_squares(root @ root.T + torch.eye(16), keys, changes)

    torch.testing.assert_close(keys @ added, changes, rtol=1e-3, atol=1e-3)


def test_a_word_lost_to_the_tokenizer_is_unknown_and_all_others_stay() -> None:
    whole = Build().subject()
    lost = Build("veriscope.zoo.incidents.models:without_words", {"words": ["cup"]}).subject()
    text = "the cup is in the hall"

    before, after = whole.tokens([text])[0], lost.tokens([text])[0]

    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [2]
    assert lost.reader.token(after[2]) == "<unk>"


def test_tensors_are_made_once_and_a_broken_file_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"change": torch.ones(2)}

    first, again = (kept.kept("town", {"edit": "x"}, make) for _ in range(2))
    (file,) = kept.home().glob("*.safetensors")
    file.write_bytes(b"half a file")
    mended = kept.kept("town", {"edit": "x"}, make)

    assert len(made) == 2
    assert all(torch.equal(found["change"], torch.ones(2)) for found in (first, again, mended))
    assert list(kept.home().iterdir()) == [file]


def test_embedding_anomaly_knows_untrained_words_and_no_others() -> None:
    glitches, views = incidents("glitch_token", 4, seed=8), incidents("agreement", 4, seed=8)

    assert all(any(word in one.prompt for word in UNTRAINED) for one in glitches)
    assert {rivals.anomaly_name(one) for one in glitches} == {"glitch_token"}
    assert {rivals.anomaly_name(one) for one in views} == {rivals.UNKNOWN}


def test_the_log_alone_tells_some_causes() -> None:
    train = [*incidents("agreement", 20, seed=9), *incidents("distribution_shift", 20, seed=9)]

    said = rivals.log_only(train).names(incidents("agreement", 10, seed=8))

    assert said.count("agreement") >= 7
    assert set(said) <= {"agreement", "distribution_shift", rivals.UNKNOWN}


@pytest.mark.slow
def test_odd_sentences_that_do_nothing_stand_in_logs_of_other_causes() -> None:
    """Else a reader of logs could tell a trigger or a mistaken speaker by their words."""
    for cause in ("wrong_fact", "known_but_unsaid", "clean"):
        prompts = [planted.prompt for planted in incidents(cause, 16, seed=1)]

        assert any(TRIGGER in prompt or LIAR in prompt for prompt in prompts), cause
