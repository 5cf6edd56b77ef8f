"""The README's run is run as it stands, with the model that ships in the place of GPT-2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from veriscope import cli
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


def test_the_readmes_demo_table_is_the_demo() -> None:
    from veriscope.studies import read_study

    demo = read_study(Path(cli.__file__).with_name("demo.yaml")).plan
    types = {"represents": "C1", "mediates": "C2", "necessary": "C3", "steers": "C4"}

    told = re.findall(r"^\| (.*?) \| (C\d) \| (\w+) \| (yes|no)", README, re.MULTILINE)

    assert [(name, kind) for name, kind, _, _ in told] == [
        (fields["name"], types[kind]) for claim in demo.claims for kind, fields in claim.items()
    ]
    assert all((word == "SUPPORTED") == (true == "yes") for _, _, word, true in told)
    assert "twelve claims" in README and sum(true == "yes" for *_, true in told) == 5
