"""Conversations and questions that others wrote, worked as cases on models that others trained and on one untrained."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from veriscope.cases import Depth, Log, log_of
from veriscope.cases.case import Case, Options, work
from veriscope.errors import NotRun
from veriscope.report.case_page import page
from veriscope.report.case_terminal import short
from veriscope.subjects import Subject, load

pytestmark = [pytest.mark.data, pytest.mark.slow]
SMALL = Options(depth=Depth(floor=6, strongest=3, shown=1, draws=2, tokens=4), shapley_passes=4.0, repair=False)


def talk(text: str) -> dict[str, object]:
    """A conversation of HH-RLHF as messages."""
    parts = re.split(r"\n\n(Human|Assistant): ?", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    said = [{"role": roles[who], "content": words.strip()} for who, words in zip(parts[::2], parts[1::2], strict=True)]
    return {"messages": said}


def conversations(data: Path, count: int) -> list[Log]:
    """The last ones in the file are long, the first ones are not."""
    with gzip.open(data / "text" / "hh_rlhf" / "harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(count)]
    return [log_of(talk(row["rejected"]), f"hh {n}") for n, row in enumerate(rows)]


def questions(data: Path, count: int) -> list[Log]:
    lines = (data / "text" / "anthropic_evals" / "survival-instinct.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:count]]
    return [log_of({"prompt": row["question"], "completion": row["answer_matching_behavior"]}) for row in rows]


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Subject:
    return load(shared_data / "lm" / "stories260k_hf")


@pytest.fixture(scope="module")
def untrained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """GPT-2 small's shape and tokenizer with two blocks, as it is before training."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        write = importlib.import_module("gpt2_shape").write_gpt2
    finally:
        sys.path.pop(0)
        for name in ("gpt2_shape", "prepare"):
            sys.modules.pop(name, None)
    return load(write(shared_data, tmp_path_factory.mktemp("gpt2"), layers=2))


def whole(case: Case) -> None:
    """What must hold of any case: every effect has its floor or a reason, and the page shows the strange words."""
    text = page(case)
    assert text.count("<section") >= 7 and "<mark" in text and short(case)
    for one in case.outside.effects:
        assert one.low <= one.nats <= one.high
        assert isinstance(one.floor, NotRun) or one.above_floor == (abs(one.nats) > one.floor)


@pytest.mark.parametrize("read", [partial(conversations, count=2), partial(questions, count=2)], ids=["talk", "asked"])
def test_real_logs_on_a_real_model(shared_data: Path, stories: Subject, read: partial[list[Log]]) -> None:
    cases = [work(log, stories, options=SMALL) for log in read(shared_data)]

    for case in cases:
        whole(case)
        assert case.transcript.strange.found == "least expected"
        # Stories for children hold none of these words: what was said came from elsewhere, and that is said.
        assert "would hardly have said" in page(case)


def test_real_logs_on_a_model_that_learned_nothing(shared_data: Path, untrained: Subject) -> None:
    logs = [*conversations(shared_data, 1), *questions(shared_data, 1)]

    cases = [work(log, untrained, options=SMALL) for log in logs]

    for case in cases:
        whole(case)
        diagnosis = case.diagnosis
        assert isinstance(diagnosis, NotRun) or diagnosis.word == "unknown", diagnosis.sentence
