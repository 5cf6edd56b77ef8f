"""Claims about plain modules that others trained: a character LSTM and modular-addition transformers.

VERISCOPE_DATA=/path/to/data python examples/plain_modules.py
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from modules import AUTHORS, CLOCK, PIZZA, accuracy, adder, bits_per_char, char_lstm
from prepare import data_folder

import veriscope as vs
from veriscope.examples import Examples
from veriscope.report.terminal import show
from veriscope.subjects import Subject
from veriscope.trials.evidence import Verdict
from veriscope.trials.judge import Effort

WINDOW = 120  # characters that the LSTM reads
MODULUS = 59


def corpus_of(data: Path, author: str) -> str:
    """The text that the author's model was trained on, with one kind of line end."""
    text = (data / "lm" / "charlstm" / author / "corpus.txt").read_text(encoding="utf-8", errors="replace")
    return text.replace("\r\n", "\n")


def quotations(corpus: str, most: int = 1_200) -> Examples:
    """Windows of a novel that end inside or outside quotation marks; a chapter-sized stretch is a cluster.

    A window counts if its paragraph began at most a window ago and no quotation mark is among its last 20 characters,
    so that neither the paragraph's state is out of sight nor the mark itself at hand.
    """
    rows: list[dict[str, str]] = []
    start = 0
    for paragraph in corpus.split("\n\n"):
        whole = " ".join(paragraph.split())
        for end in range(60, min(len(whole), WINDOW), 20):
            seen = whole[:end]
            if '"' in seen and '"' not in seen[-20:]:
                inside = "inside" if seen.count('"') % 2 else "outside"
                rows.append({"text": seen, "quotation": inside, "stretch": str(start // 20_000)})
        start += len(paragraph)
    return vs.examples(_balanced(rows, "quotation", most), label="quotation", cluster="stretch", name="quotations")


def _balanced(rows: list[dict[str, str]], label: str, most: int) -> list[dict[str, str]]:
    """As many of each class, chosen by a hash of the text alone."""
    order = sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())
    classes = sorted({row[label] for row in rows})
    each = min(most // len(classes), *(sum(row[label] == c for row in rows) for c in classes))
    return [row for c in classes for row in [r for r in order if r[label] == c][:each]]


def sums(fact: str) -> Examples:
    """All pairs below 59, with a yes-or-no fact about their sum modulo 59; {a, b} is one cluster."""
    rows = [
        {"text": f"{a} {b}", fact: FACTS[fact]((a + b) % MODULUS), "pair": f"{min(a, b)} {max(a, b)}"}
        for a in range(MODULUS)
        for b in range(MODULUS)
    ]
    return vs.examples(rows, label=fact, cluster="pair", name=f"sums, {fact}")


def _right_half(k: int) -> Callable[[int], bool]:
    return lambda total: math.cos(2 * math.pi * k * total / MODULUS) > 0


# Each model is known to count on circles: the pizza's first is number 17, the clock's is number 13.
FACTS: dict[str, Callable[[int], bool]] = {
    "below thirty": lambda total: total < 30,
    "right half of circle 17": _right_half(17),
    "right half of circle 13": _right_half(13),
}


def try_lstm(subject: Subject, on: Examples, effort: Effort) -> Verdict:
    """C1: the upper layer's hidden state knows whether a quotation is open."""
    probe = vs.methods.LogisticProbe(site="layers.1", position="last").fit(subject, on.dev)
    claim = vs.Represents(probe, of="quotation", on=on, name="knows whether a quotation is open")
    return vs.trial(claim, subject=subject, effort=effort)


def try_adder(subject: Subject, fact: str, effort: Effort) -> Verdict:
    """C1: the state before the unembedding holds a fact about the sum."""
    on = sums(fact)
    probe = vs.methods.LogisticProbe(site="blocks.0", position="last").fit(subject, on.dev)
    claim = vs.Represents(probe, of=fact, on=on, name=f"{subject.name}: the sum is {fact}")
    return vs.trial(claim, subject=subject, effort=effort)


def main() -> None:
    """Check the known facts first, then try the claims."""
    data = data_folder()
    corpora = {author: corpus_of(data, author) for author in AUTHORS}
    for author in AUTHORS:
        model = char_lstm(data / "lm" / "charlstm" / author)
        bits = {other: round(bits_per_char(model, text), 2) for other, text in corpora.items()}
        print(f"{model.name}: bits per character {bits}")
    kinds = {PIZZA: "the pizza", CLOCK: "the clock"}
    adders = {run: adder(data / "organism" / "clock_pizza", run, name) for run, name in kinds.items()}
    for subject in adders.values():
        print(f"{subject.name}: accuracy {accuracy(subject):.4f}")
    bronte = char_lstm(data / "lm" / "charlstm" / "charlotte_bronte")
    verdicts = [try_lstm(bronte, quotations(corpora["charlotte_bronte"]), Effort())]
    verdicts += [
        try_adder(subject, label, Effort()) for subject in adders.values() for label in ("below thirty", "even")
    ]
    show(verdicts, toy=True)


if __name__ == "__main__":
    main()
