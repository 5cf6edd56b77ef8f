"""The page: what stands first, what stands beside each figure, and that no text given to it becomes markup."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import planted_study as planted
import pytest

from veriscope.errors import NotRun
from veriscope.ledger import Ledger
from veriscope.report import write
from veriscope.report.page import NothingToReport, gather, page
from veriscope.trials.evidence import Control, Verdict, to_plain

ALL = (planted.SUPPORTED, planted.REFUTED, planted.INCONCLUSIVE, planted.INVALID)


class Reader(HTMLParser):
    """Elements with their attributes, and the text that stands in each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"
        if tag not in ("bdi", "span", "code", "a"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for tag in set(self._open) - ({"title"} if "svg" in self._open else set()):
            self.text.setdefault(tag, []).append(data)

    def words(self, tag: str) -> str:
        return " ".join("".join(self.text.get(tag, [])).split())


def read(*verdicts: Verdict, **how) -> tuple[str, Reader]:
    text = page(gather(planted.study(*verdicts, **how)))
    return text, Reader(text)


@pytest.mark.parametrize(
    ("verdict", "first"),
    [
        (planted.SUPPORTED, "Supported at L2+useful: film mood"),
        (planted.REFUTED, "Not supported (refuted): hidden truth"),
        (planted.INCONCLUSIVE, "Not supported (inconclusive): cheerful push"),
        (planted.INVALID, "Not supported (the trial itself is invalid): broken rule"),
    ],
)
def test_the_first_line_is_the_verdict_in_plain_words(verdict: Verdict, first: str) -> None:
    _, seen = read(verdict)

    assert seen.words("h1") == seen.words("title") == first
    assert seen.words("body").startswith(f"{first} {verdict.sentence}")


@pytest.mark.parametrize("word", ["REFUTED", "INCONCLUSIVE", "CONDITIONAL", "UNDERDETERMINED", "INVALID"])
def test_whatever_is_not_supported_says_so_first(word: str) -> None:
    _, seen = read(dataclasses.replace(planted.REFUTED, word=word))

    assert "not supported" in seen.words("h1").lower()


def test_a_study_counts_its_failures_first_and_lists_every_claim() -> None:
    text, seen = read(*ALL)

    assert seen.words("h1") == "3 of 4 claims not supported, 1 supported"
    assert all(seen.words("table").count(v.word) == 1 for v in ALL)
    assert [a["href"] for tag, a in seen.elements if tag == "a"] == ["#claim-1", "#claim-2", "#claim-3", "#claim-4"]
    assert text.count('id="claim-') == 4


def test_toy_is_the_first_word_of_a_toy_report() -> None:
    told = dataclasses.replace(planted.REFUTED, sentence="Toy model only: REFUTED (not supported).")
    without_study = [r for r in planted.study(told).rows() if r.kind != "study"]

    for seen in (read(planted.SUPPORTED, toy=True)[1], read(*ALL, toy=True)[1], Reader(page(gather(without_study)))):
        assert seen.words("h1").startswith("Toy model only. ")
        assert seen.words("body").lower().startswith("toy")
    assert "toy" not in read(*ALL)[1].words("body").lower()


def test_every_figure_has_its_control_beside_it() -> None:
    text, seen = read(*ALL)

    assert {a["data-figure"] for _, a in seen.elements if "data-figure" in a} == {"curve", "distribution", "forest"}
    for body in re.findall(r'data-figure="(?:forest|distribution)"(.*?)</table>', text, re.S):
        assert re.search(r'<tr class="claim', body) and re.search(r'<tr class="(control|rival)', body)
    for body in re.findall(r'data-figure="curve"(.*?)</figure>', text, re.S):
        assert "path claim" in body and "path control" in body


def test_a_score_without_a_measured_control_gets_no_figure() -> None:
    spread = planted.represents()[1]
    alone = dataclasses.replace(planted.steers()[0], series={"dose": (0.0, 1.0), "logits": (0.0, 0.9)})
    unmeasured = planted.gate("g3", "dead salmon", "not run", {"twin": 0.1}, 0.1)
    silent = dataclasses.replace(unmeasured, controls=(Control("twin", NotRun("no memory left")),), strongest="")

    text, seen = read(dataclasses.replace(planted.REFUTED, gates=(spread, alone, silent)))

    assert "data-figure" not in text
    assert "No picture: no control was measured in this unit." in seen.words("p")


def test_all_text_from_models_and_data_is_escaped() -> None:
    text, seen = read(
        planted.HOSTILE_VERDICT, planted.SUPPORTED, told=planted.HOSTILE, name=f"reviews {planted.SCRIPT}"
    )
    shown = {tag for tag, _ in seen.elements}
    named = {name for _, attributes in seen.elements for name in attributes}

    assert "<script" not in text and "<img" not in text
    assert not shown & {"script", "img", "iframe", "object", "link", "a:", "form", "base"}
    assert not any(name.startswith("on") for name in named)
    assert text.count("&lt;script&gt;alert(1)") > 10
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_nothing_is_asked_of_another_machine() -> None:
    text, seen = read(planted.HOSTILE_VERDICT, *ALL, told=planted.HOSTILE)
    fetching = ("src", "href", "action", "srcset", "data", "poster", "xlink:href")
    addresses = [v for _, a in seen.elements for k, v in a.items() if k in fetching]
    policy = [a["content"] for tag, a in seen.elements if tag == "meta" and a.get("http-equiv")]

    assert addresses and all(v and v.startswith("#") for v in addresses)
    assert policy and policy[0] and policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    style = re.search("<style>(.*?)</style>", text, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_what_was_not_tested_and_how_often_was_looked_are_there() -> None:
    _, seen = read(*ALL)
    words = seen.words("body")

    for expected in (
        "other languages",
        "side effects: no neutral text was given",
        "English film reviews",
        "(the trial ended before it)",
        "opened once",
        "never opened",
        "12 settings tried",
        "does the model track sentiment?",
        "after 3 looks",
    ):
        assert expected in words, expected
    for soothing in ("safe", "all clear", "no risk", "harmless", "nothing to worry", "no problems"):
        assert soothing not in words.lower()


def test_the_footer_lets_the_ledger_be_checked() -> None:
    ledger = planted.study(*ALL)

    words = Reader(page(gather(ledger))).words("body")

    assert f"veriscope try reviews.yaml --seed 0 veriscope ledger verify LEDGER --head {ledger.head()}" in words
    assert f"Ledger head {ledger.head()}" in words
    assert "verdicts at rows 4, 7, 10, 12" in words


def test_a_later_verdict_on_a_card_replaces_the_earlier_one_and_names_it() -> None:
    ledger = planted.study(planted.REFUTED)
    again = dataclasses.replace(planted.REFUTED, word="INCONCLUSIVE")
    ledger.append("verdict", {"card": again.card, "name": again.name, "seed": 0, "verdict": to_plain(again)})

    seen = Reader(page(gather(ledger)))

    assert seen.words("h1") == "Not supported (inconclusive): hidden truth"
    assert "Earlier verdicts on this card: row 4 (REFUTED)" in seen.words("p")


def test_only_the_study_asked_for_is_shown() -> None:
    ledger = planted.study(planted.SUPPORTED)
    other = to_plain(planted.REFUTED)
    ledger.append("study", {"name": "other"})
    ledger.append("verdict", {"card": planted.REFUTED.card, "study": "other", "verdict": other})

    assert [t.verdict.name for t in gather(ledger, "reviews").claims] == ["film mood"]
    assert [t.verdict.name for t in gather(ledger).claims] == ["film mood", "hidden truth"]


def test_a_failure_is_shown_where_no_verdict_was_reached() -> None:
    ledger = Ledger.in_memory()
    ledger.append("failure", {"name": "film mood", "what": f"ran out of memory {planted.SCRIPT}"})

    seen = Reader(page(gather(ledger)))

    assert seen.words("h1") == "Not supported: no verdict was reached"
    assert "film mood: ran out of memory" in seen.words("li")


def test_nothing_to_report_says_what_to_type() -> None:
    ledger = planted.study(planted.SUPPORTED)

    with pytest.raises(NothingToReport, match=r"this ledger\. Put a study's claims on trial with: veriscope try STUDY"):
        gather(Ledger.in_memory())
    with pytest.raises(NothingToReport, match=r"the study 'film'\. It holds these studies: reviews"):
        gather(ledger, "film")


def test_the_file_is_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = write(planted.study(*ALL), tmp_path / "new" / "report.html")

    text = path.read_text(encoding="utf-8")

    assert text.startswith("<!doctype html>") and text.endswith("</html>\n")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_rows_alone_do_as_well_as_a_ledger() -> None:
    ledger = planted.study(*ALL)

    assert page(gather(ledger.rows())) == page(gather(ledger))
