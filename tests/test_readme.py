"""The README's run is run as it stands, with the model that ships in the place of GPT-2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from veriscope.zoo.tables import town

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no {kind} block"
    return found.group(1)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"text": r["text"], "positive": r["view"] == "for", "film": r["pair"]} for r in town("agree", 600, 0)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code = block("python").replace('"gpt2"', '"town"').replace("blocks.6", "blocks.2")

    exec(compile(code, "README.md", "exec"), {})

    said = capsys.readouterr().out
    assert "[C1 REPRESENTS]" in said and "REFUTED" in said  # the words for or against stand in the text itself


def test_the_readmes_study_is_a_study() -> None:
    from veriscope.studies import parse_study

    study = parse_study(block("yaml"), "README.md", Path("."), "readme")

    assert [next(iter(c)) for c in study.plan.claims] == ["represents", "steers"]
