"""One self-contained HTML page from ledger rows: the verdict first, every figure with its control beside it.

The page is told everything by the ledger and computes nothing new. It shows every verdict of the study; there
is no way to leave one out by how it ended. Bodies of rows, every field optional unless marked:

    study    name*, purpose {question, problem_class, cheaper, harm, stop}, subject {name, hash, toy, n_parameters,
             described}, examples {name: {hash, n, ...}}, text (of the study file), rerun (the
             command, where it was not `veriscope try`), versions
    card     hash*, card {statement, scope and all its other fields}
    verdict  verdict* (`to_plain(Verdict)`), study (its name), asks {gate: what it asks}
    look     examples, pool, by (card), n, again
    failure  name (of the claim), what (the message)
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count, repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from veriscope.errors import NotRun, UserError
from veriscope.report import figures
from veriscope.report.markup import Html, el, given
from veriscope.report.text import LEVELS, PLAIN, amount, asked, clean, headline, named, number
from veriscope.trials.evidence import Estimate, GateResult, Verdict, from_plain

TONE = {"SUPPORTED": "good", "REFUTED": "bad", "INVALID": "bad"}  # every other verdict is open
GATE_TONE = {"pass": "good", "quiet": "good", "fail": "bad", "fired": "bad", "unclear": "open", "not run": "open"}
ROLE = {"instrument": "instrument check", "falsifier": "falsifier", "diagnostic": "diagnostic", "rival": "rival"}
PURPOSE = {
    "question": "question",
    "problem_class": "problem class",
    "cheaper": "cheaper alternative",
    "harm": "possible harm",
    "stop": "stops when",
}
CARD_FIRST = ("type", "name", "statement", "scope", "smallest_effect", "unit", "metric", "falsifier", "assumptions")
NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@runtime_checkable
class Row(Protocol):
    """A ledger row, as the page needs it."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> Any: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def hash(self) -> str: ...


class NothingToReport(UserError):
    """Rows that hold no verdict and no failure."""

    def __init__(self, study: str | None, known: Sequence[str]) -> None:
        asked_for = f"the study '{study}'" if study else "this ledger"
        there = f" It holds these studies: {', '.join(known)}." if known else ""
        super().__init__(
            f"There is no verdict to report in {asked_for}.{there} "
            "Put a study's claims on trial with: veriscope try STUDY"
        )


@dataclass(frozen=True)
class Tried:
    """One claim's verdict with the rows that it stands on."""

    verdict: Verdict
    row: Row
    card: Mapping[str, Any]
    card_row: Row | None
    earlier: tuple[Row, ...]  # verdict rows on the same card that this one replaces


@dataclass(frozen=True)
class Record:
    """What one page is made of."""

    rows: tuple[Row, ...]
    head: str
    file: str  # the ledger's file name
    name: str
    study: Mapping[str, Any]
    claims: tuple[Tried, ...]
    looks: tuple[Row, ...]
    failures: tuple[Row, ...]

    @property
    def subject(self) -> Mapping[str, Any]:
        """The subject as the study, or a verdict without a study, described it."""
        described = self.study.get("subject")
        if isinstance(described, Mapping):
            return described
        if described:
            return {"name": str(described)}
        cards = [t.card for t in self.claims if t.card.get("subject_name")]
        return {"name": cards[0]["subject_name"], "hash": cards[0].get("subject", "")} if cards else {}

    @property
    def toy(self) -> bool:
        """Whether everything here was seen on a toy model only: as the subject says, or else as every sentence does."""
        if "toy" in self.subject:
            return bool(self.subject["toy"])
        return bool(self.claims) and all(t.verdict.sentence.lower().startswith("toy") for t in self.claims)


def write(ledger: Any, path: str | Path, *, study: str | None = None) -> Path:
    """Write the page of a study, or of everything in the ledger.

    Args:
        ledger: A `Ledger`, or its rows in order.
        path: The HTML file; its folder is made if need be, and the file replaced only when the page is whole.
        study: Name of one study; all verdicts of the ledger otherwise.

    Raises:
        NothingToReport: No verdict and no failure there.
    """
    text = page(gather(ledger, study))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return path


def gather(ledger: Any, study: str | None = None) -> Record:
    """Sort the rows of a ledger into what the page shows."""
    rows: tuple[Row, ...] = tuple(ledger.rows() if hasattr(ledger, "rows") else ledger)
    head = ledger.head() if hasattr(ledger, "head") else (rows[-1].hash if rows else "")
    studies = [r.body for r in rows if r.kind == "study"]
    chosen: Mapping[str, Any] = next((s for s in reversed(studies) if study in (None, s.get("name"))), {})
    mine = [r for r in rows if study is None or r.body.get("study") in (None, study)]
    claims = _claims(mine)
    failures = tuple(r for r in mine if r.kind == "failure")
    if not (claims or failures) or (study is not None and studies and not chosen):
        raise NothingToReport(study, sorted({str(s.get("name")) for s in studies}))
    cards = {t.verdict.card for t in claims}
    looks = tuple(r for r in mine if r.kind == "look" and (study is None or r.body.get("by") in cards))
    path = str(getattr(ledger, "path", ""))
    file = Path(path).name if path and path != ":memory:" else "LEDGER"
    return Record(rows, head, file, str(chosen.get("name") or study or ""), chosen, claims, looks, failures)


def _claims(rows: Sequence[Row]) -> tuple[Tried, ...]:
    """The last verdict of every card, in the order in which the cards were first judged."""
    cards = {r.body.get("hash"): r for r in rows if r.kind == "card"}
    by_card: dict[str, list[tuple[Row, Verdict]]] = {}
    for row in rows:
        if row.kind == "verdict":
            verdict = from_plain(Verdict, row.body["verdict"])
            by_card.setdefault(verdict.card, []).append((row, verdict))
    out = []
    for card, judged in by_card.items():
        row, verdict = judged[-1]
        card_row = cards.get(card)
        body = card_row.body if card_row else {}
        out.append(Tried(verdict, row, body.get("card", body), card_row, tuple(r for r, _ in judged[:-1])))
    return tuple(out)


def page(record: Record) -> str:
    """The whole page as text."""
    first = headline([t.verdict for t in record.claims], toy=record.toy)
    claims = map(_claim, repeat(record), record.claims, count(1))
    return framed(first, el("main", _opening(record, first), claims, _about(record)), _footer(record))


def framed(title: str, *body: Html, styles: Sequence[str] = ()) -> str:
    """A page around its body that asks nothing of any other machine.

    Args:
        title: Of the window.
        styles: Further style sheets of this package, after the one of every page.
    """
    sheets = [(files("veriscope.report") / name).read_text(encoding="utf-8") for name in ("style.css", *styles)]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=NO_REQUESTS),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html("".join(sheets))),
    )
    return "<!doctype html>\n" + el("html", head, el("body", body), lang="en") + "\n"


def _opening(record: Record, first: str) -> Html:
    """The verdict in plain words, its sentence, what it was about; for several claims, the table of all."""
    parts: list[Html | None] = [el("h1", given(first))]
    if len(record.claims) == 1:
        parts.append(el("p", given(record.claims[0].verdict.sentence), class_="lead"))
    parts.append(el("p", _context(record), class_="soft"))
    if len(record.claims) > 1:
        parts.append(_summary(record))
    if record.failures:
        parts.append(_failures(record))
    return el("header", parts)


def _context(record: Record) -> list[str | Html]:
    subject = record.subject
    size = subject.get("n_parameters")
    words: list[str | Html] = ["Model under study: ", given(str(subject.get("name") or "not recorded"))]
    if isinstance(size, int):
        words.append(f", {size:,} parameters")
    if record.toy:
        words.append(", a toy: nothing here was shown on a model in use")
    if subject.get("described"):
        words += [" (", given(str(subject["described"])), ")"]
    words.append(". ")
    if record.name:
        words += ["Study: ", given(record.name), "."]
    return words


def _summary(record: Record) -> Html:
    head = {"claim": 17, "verdict": 17, "level": 7, "effect": 18, "strongest control": 18, "best rival": 17, "looks": 6}
    rows = []
    for i, t in enumerate(record.claims):
        v = t.verdict
        claim = [el("a", given(v.name), href=f"#claim-{i + 1}"), el("span", given(v.claim), class_="under")]
        cells = [
            ("verdict", _word(v)),
            ("level", [f"L{v.level}", el("span", "useful", class_="under") if v.useful else None]),
            ("effect", _kept(amount(v.effect, v.unit))),
            ("strongest control", _kept(named(v, v.strongest_control))),
            ("best rival", _kept(named(v, v.best_rival))),
            ("looks", str(v.looks)),
        ]
        rows.append(el("tr", el("th", claim, scope="row"), [el("td", cell, data_label=label) for label, cell in cells]))
    return el(
        "table",
        el("thead", el("tr", [el("th", h, scope="col", style=f"width:{w}%") for h, w in head.items()])),
        el("tbody", rows),
        class_="stack fixed",
        id="summary",
    )


def _failures(record: Record) -> Html:
    items = []
    for r in record.failures:
        what, why = r.body.get("name") or "a step", r.body.get("what") or "no message"
        items.append(el("li", given(str(what)), ": ", given(str(why)), f" (row {r.seq})"))
    return el("div", el("h3", "Did not run"), el("ul", items), id="failures")


def _claim(record: Record, tried: Tried, index: int) -> Html:
    v = tried.verdict
    parts: list[Html | None] = []
    if len(record.claims) > 1:
        parts.append(el("h2", _icon(v.word), " ", given(headline([v], toy=record.toy))))
        parts.append(el("p", given(v.sentence), class_="lead"))
    else:
        parts.append(el("h2", _icon(v.word), " What the verdict rests on"))
    parts += [_facts(tried), *_figures(v), el("h3", "Gates"), _gates(tried)]
    parts += [_not_tested(tried), _card(tried), _rerun(record, tried)]
    return el("section", parts, id=f"claim-{index}", class_=f"claim {TONE.get(v.word, 'open')}")


def _facts(tried: Tried) -> Html:
    v = tried.verdict
    statement = tried.card.get("statement")
    settings = "1 setting" if v.tries == 1 else f"{v.tries:,} settings"
    pairs: list[tuple[str, str | Html | list[str | Html]]] = [
        ("verdict", [_word(v), f", {LEVELS[v.level]}{_flags(v)}"]),
        ("effect", _kept(amount(v.effect, v.unit))),
        ("strongest control", _kept(named(v, v.strongest_control))),
        ("best rival", _kept(named(v, v.best_rival))),
        ("looks and tries", f"gate pool {_times(v.looks)}; {settings} tried before the card was written"),
        ("the verifier itself", given(v.error_rates or "its error rates on planted claims are not recorded")),
    ]
    if statement:
        pairs.insert(0, ("claimed", given(str(statement))))
    return _dl(pairs)


def _times(n: int) -> str:
    return {0: "never opened", 1: "opened once"}.get(n, f"opened {n} times")


def _flags(v: Verdict) -> str:
    return ", better than its best rival" if v.advantage else ", on a par with its best rival" if v.useful else ""


def _figures(v: Verdict) -> list[Html | None]:
    """Every figure has its control on the same axis; a score without one is printed as a number instead."""
    drawn = [(block.side, figures.forest(block)) for block in figures.blocks(v) if block.drawn]
    main = [figure for side, figure in drawn if not side]
    rest = [figure for side, figure in drawn if side]
    for gate in v.gates:
        if gate.spread is not None:
            main.append(figures.distribution(v, gate) or _spread_in_words(gate))
        curve = figures.curves(v, gate)
        if curve is not None:
            (main if gate.role in ("gate", "rival") else rest).append(curve)
    if not main:
        main.append(el("p", "No figure: no score of the claim was measured beside a control.", class_="soft"))
    return [*main, el("details", el("summary", "Figures of diagnostics and falsifiers"), rest) if rest else None]


def _spread_in_words(gate: GateResult) -> Html:
    assert gate.spread is not None
    s = gate.spread
    wrong = f"{gate.title}: {number(100 * s.wrong_sign, 0)}% of inputs go the other way; worst cluster "
    at = f" at {number(s.worst_value)} {gate.unit}. No picture: no control was measured in this unit."
    return el("p", wrong, given(s.worst_cluster), at)


def _gates(tried: Tried) -> Html:
    asks = tried.row.body.get("asks") or {}
    rows = [_gate_row(gate, str(asks.get(gate.gate, ""))) for gate in tried.verdict.gates]
    widths = {"gate": 19, "what it asks": 26, "measured": 27, "must be": 13, "outcome": 15}
    head = el("tr", [el("th", h, scope="col", style=f"width:{w}%") for h, w in widths.items()])
    caption = el(
        "caption",
        "Measured is the excess over the strongest control wherever there is one. In the small plots the dashed "
        "line is the margin and the thin line is zero, each on a scale of its own.",
    )
    return el("table", caption, el("thead", head), el("tbody", rows), class_="stack fixed gates")


def _gate_row(gate: GateResult, asks: str) -> Html:
    excess = bool(gate.strongest) and isinstance(gate.estimate, Estimate)
    over = el("span", "over ", given(gate.strongest), class_="under") if excess else None
    role = el("span", ROLE[gate.role], class_="under") if gate.role in ROLE else None
    name = [el("span", f"{gate.gate} ", given(gate.title)), role]
    repeated = isinstance(gate.estimate, NotRun) and gate.note == gate.estimate.reason
    note = el("span", given(gate.note), class_="under" if asks else None) if gate.note and not repeated else None
    said = [given(asks) if asks else None, note]
    measured = [_kept(amount(gate.estimate, gate.unit)), over, figures.gauge(gate)]
    outcome_word = "not run" if gate.outcome == "printed" and isinstance(gate.estimate, NotRun) else gate.outcome
    more = f"about {gate.items_needed:,} more items would decide it" if gate.items_needed else ""
    outcome = [
        el("span", _gate_icon(gate.outcome), outcome_word, class_="word"),
        el("span", more, class_="under") if more else None,
    ]
    cells = (
        el("td", said),
        el("td", measured, data_label="measured", class_="measured"),
        el("td", asked(gate), data_label="must be"),
        el("td", outcome),
    )
    return el("tr", el("th", name, scope="row"), cells, class_=GATE_TONE.get(gate.outcome, "mute"))


def _not_tested(tried: Tried) -> Html:
    v = tried.verdict
    skipped = [f"{g.title}: {g.note}" if g.note else g.title for g in v.gates if g.outcome == "not run"]
    asks = tried.row.body.get("asks") or {}
    begun = {g.gate for g in v.gates}
    skipped += [f"{gate}: {what} (the trial ended before it)" for gate, what in asks.items() if gate not in begun]
    items = [*v.not_tested, *(s for s in skipped if not any(s in t for t in v.not_tested))]
    if not items:
        gap = "That is a gap in the record, not a sign that all was tested."
        items = [f"The trial kept no list of what it did not test. {gap}"]
    if tried.card.get("scope"):
        items.append(f"Anything outside the scope of the card: {tried.card['scope']}.")
    return el(
        "div",
        el("h3", "Not tested"),
        el("ul", [el("li", given(i)) for i in items]),
        class_="not-tested",
    )


def _card(tried: Tried) -> Html:
    if tried.card_row is None:
        missing = el("p", "No card with this hash is among the rows: ", _hash(tried.verdict.card))
        return el("details", el("summary", "The card"), missing)
    ordered = [*(k for k in CARD_FIRST if k in tried.card), *(k for k in tried.card if k not in CARD_FIRST)]
    return el(
        "details",
        el("summary", f"The card, written down at row {tried.card_row.seq} before the gate pool was opened"),
        _dl([(k.replace("_", " "), _value(tried.card[k])) for k in ordered]),
    )


def _value(value: Any) -> Html:
    if value is None or (isinstance(value, str | Mapping | list | tuple) and not value):
        return el("span", "none", class_="soft")
    if isinstance(value, Mapping):
        return _dl([(str(k).replace("_", " "), _value(v)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return el("span", [[", " if i else "", _value(v)] for i, v in enumerate(value)])
    return given(value if isinstance(value, str) else json.dumps(value))


def _rerun(record: Record, tried: Tried) -> Html:
    v = tried.verdict
    commands = [f"veriscope ledger verify {shlex.quote(record.file)} --head {record.head}"]
    if record.study.get("rerun"):
        commands.insert(0, str(record.study["rerun"]))
        how = ""
    elif record.study.get("text"):
        commands.insert(0, f"veriscope try {shlex.quote(f'{record.name}.yaml')} --seed {v.seed}")
        how = "The study file is printed whole under 'The study file' below."
    else:
        how = "This trial was called from Python, not from a study file; the card above holds all its settings."
    earlier = ", ".join(f"row {r.seq} ({r.body['verdict'].get('word')})" for r in tried.earlier)
    before = f" Earlier verdicts on this card: {earlier}." if earlier else ""
    return el(
        "div",
        el("h3", "To run it again"),
        el("pre", given("\n".join(commands))),
        el("p", f"{how} Verdict at row {tried.row.seq}, seed {v.seed}, {number(v.seconds)} s.{before}", class_="soft"),
        class_="rerun",
    )


def _about(record: Record) -> Html | None:
    """What holds for all claims: why the study was done, on what, with which looks."""
    purpose = record.study.get("purpose") or {}
    parts: list[Html | None] = [el("h2", "The study")]
    if purpose:
        parts.append(_dl([(word, given(str(purpose.get(key) or "not stated"))) for key, word in PURPOSE.items()]))
    else:
        parts.append(el("p", "No purpose was declared: these trials were not part of a study file.", class_="soft"))
    if record.looks:
        parts.append(_looks(record))
    examples = record.study.get("examples")
    if examples:
        parts += [el("h3", "Examples"), _value(examples)]
    subject = {k: v for k, v in record.subject.items() if v not in (None, "", False)}
    if subject:
        parts += [el("h3", "Model under study"), _dl([(k.replace("_", " "), _value(v)) for k, v in subject.items()])]
    if record.study.get("text"):
        parts.append(el("details", el("summary", "The study file"), el("pre", given(str(record.study["text"])))))
    if record.study.get("versions"):
        parts.append(el("details", el("summary", "Versions"), _value(record.study["versions"])))
    return el("section", parts, id="study")


def _looks(record: Record) -> Html:
    names = {t.verdict.card: t.verdict.name for t in record.claims}
    rows = []
    for r in record.looks:
        by = str(r.body.get("by", ""))
        again = " (again, by the same card)" if r.body.get("again") else ""
        rows.append(
            el(
                "tr",
                el("td", str(r.seq)),
                el("td", given(str(r.body.get("pool", "")))),
                el("td", str(r.body.get("n", ""))),
                el("td", given(names.get(by, by[:12])), again),
            )
        )
    head = el("tr", [el("th", h, scope="col") for h in ("row", "pool", "examples", "opened by")])
    return el("div", el("h3", "Looks"), el("table", el("thead", head), el("tbody", rows), class_="plain"))


def _footer(record: Record) -> Html:
    verdicts = ", ".join(str(t.row.seq) for t in record.claims) or "none"
    span = f"{record.rows[0].seq} to {record.rows[-1].seq}"
    last = clean(str(record.rows[-1].time))
    return el(
        "footer",
        el(
            "div",
            el(
                "p",
                f"Made from ledger rows {span}; verdicts at rows {verdicts}. Last row written {last}. Ledger head ",
                _hash(record.head),
                ".",
            ),
            el(
                "p",
                "A verdict says what was shown on these examples under these controls. What was not seen here "
                "may still be there.",
            ),
            class_="line",
        ),
    )


def _kept(text: str) -> Html:
    """Text with numbers in it: a pair of bounds is not broken over two lines."""
    return given(re.sub(r"\[([^\[\] ]+), ", "[\\1,\u00a0", text))


def _hash(text: str) -> Html:
    return el("code", given(text or "not recorded"))


def _dl(pairs: Sequence[tuple[str, Any]]) -> Html:
    return el("dl", [[el("dt", key), el("dd", value)] for key, value in pairs])


def _word(v: Verdict) -> Html:
    return el(
        "span", el("span", _icon(v.word), v.word, class_="word", title=PLAIN[v.word]), class_=TONE.get(v.word, "open")
    )


_SHAPES = {"good": "M2 7l3.5 3.5L12 3.5", "bad": "M3 3l8 8M11 3l-8 8", "open": "M2 7h10"}


def _icon(word: str) -> Html:
    return icon(TONE.get(word, "open"))


def _gate_icon(outcome: str) -> Html | None:
    return icon(GATE_TONE[outcome]) if outcome in GATE_TONE else None


def icon(tone: str) -> Html:
    return el(
        "svg", el("path", d=_SHAPES[tone]), class_="icon", width=14, height=14, viewBox="0 0 14 14", aria_hidden="true"
    )
