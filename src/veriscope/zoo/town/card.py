"""The card of the bed town: what each shipped model can do, measured. `python -m veriscope.zoo.town.card`.

Accuracy is the share of held-out prompts where the most likely next word, of the whole vocabulary, is the answer.
Beside it stands a bigram model fitted on text of the same grammar, habits and mixture: what the last word gives away.
`--measure` runs all shipped models again and writes `card.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from veriscope.zoo import town
from veriscope.zoo.town import grammar, truth
from veriscope.zoo.town import world as w
from veriscope.zoo.town.grammar import Habits, Row
from veriscope.zoo.town.recipe import predict

CARD = Path(__file__).parent / "card.json"


def interval(right: int, n: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95% interval of a share."""
    found = binomtest(right, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def bigram(seed: int, habits: Habits, documents: int) -> tuple[dict[str, str], Counter]:
    """The most frequent next word after each word, and how often each word stood in that training text."""
    follows: dict[str, Counter] = defaultdict(Counter)
    for doc in itertools.islice(grammar.documents(seed, habits), documents):
        for word, after in itertools.pairwise(["<bos>", *doc.words]):
            follows[word][after] += 1
    counts = Counter(after for table in follows.values() for after in table.elements())
    return {word: table.most_common(1)[0][0] for word, table in follows.items()}, counts


def _share(right: int, n: int) -> dict[str, Any]:
    low, high = interval(right, n)
    return {"right": right, "n": n, "accuracy": right / n, "low": low, "high": high}


def skill_rows(skill: str, habits: Habits, n: int, seed: int) -> list[Row]:
    """The rows that the card counts. "agree_conflict": a stated view against the truth; the rest by their skill."""
    if skill != "agree_conflict":
        return grammar.rows(skill, n, seed, habits=habits)
    rows = grammar.rows("agree", 3 * n, seed, habits=habits)
    return [row for row in rows if (row.factors["view"] == "for") != grammar.true_claim(row.factors)][:n]


def measure(variant: str, n: int = 500, seed: int = 2024, documents: int = 200_000) -> dict[str, Any]:
    """Ask one shipped model every skill and every check; nothing here is typed by hand."""
    chosen, model = town.VARIANTS[variant], truth.open_model(variant)
    guess, counts = bigram(chosen.seed, chosen.habits, documents)
    skills = {}
    for skill in [*grammar.SKILLS, "agree_conflict"]:
        rows = skill_rows(skill, chosen.habits, n, seed)
        said = predict(model, rows)
        right = sum(word == row.answer for word, row in zip(said, rows, strict=True))
        blind = sum(guess.get(row.text.split()[-1]) == row.answer for row in rows)
        skills[skill] = {**_share(right, len(rows)), "bigram": _share(blind, len(rows))}
    common = tuple(word for word in grammar.COPIED if counts[word])
    return {
        "skills": skills,
        "checks": [
            {**vars(check), **_share(check.right, check.n)} for check in truth.checks(model, variant, 200, seed)
        ],
        "untrained": {
            "words": len(w.UNTRAINED),
            "in_training_text": sum(counts[word] for word in w.UNTRAINED),
            "repeated": len(truth.repeated(model, w.UNTRAINED)),
            "trained_repeated": _share(len(truth.repeated(model, common)), len(common)),
            "rare_repeated": _share(len(truth.repeated(model, w.RARE)), len(w.RARE)),
        },
        "bigram_documents": documents,
        "bigram_words": counts.total(),
        "parameters": model.num_parameters(),
        "training": json.loads((town.folder(variant) / "training.json").read_text()),
    }


def read() -> dict[str, Any]:
    """The stored card: variant -> what `measure` found."""
    return json.loads(CARD.read_text())


def learned(variant: str = "town", least: float = 0.85) -> list[str]:
    """The skills whose accuracy is at least `least` even at the lower end of its interval: fit for claims."""
    skills = read()[variant]["skills"]
    return [skill for skill in grammar.SKILLS if skills[skill]["low"] >= least]


def table(card: dict[str, Any]) -> str:
    """The card as text: a row a skill, a column a model, the bigram model of the main variant last."""
    names = list(card)
    lines = [f"{'held-out accuracy, %':<22}" + "".join(f"{name:>19}" for name in names) + f"{'bigram':>9}{'n':>6}"]
    for skill, main in card[names[0]]["skills"].items():
        cells = []
        for name in names:
            found = card[name]["skills"][skill]
            cells.append(f"{100 * found['accuracy']:.1f} [{100 * found['low']:.0f} {100 * found['high']:.0f}]")
        tail = f"{100 * main['bigram']['accuracy']:9.1f}{main['n']:6d}"
        lines.append(f"{skill:<22}" + "".join(f"{cell:>19}" for cell in cells) + tail)
    lines += ["", f"{'both of a pair right, %':<48}" + "".join(f"{name:>19}" for name in names)]
    for i, check in enumerate(card[names[0]]["checks"]):
        results = [card[name]["checks"][i] for name in names]
        shown = (f"{100 * r['accuracy']:.1f} {r['expected']}" for r in results)
        lines.append(f"{check['name']:<48}" + "".join(f"{cell:>19}" for cell in shown))
    lines.append("")
    for name in names:
        found, training = card[name]["untrained"], card[name]["training"]
        trained = found["trained_repeated"]
        lines.append(
            f"{name}: {card[name]['parameters']} parameters, {training['tokens'] / 1e6:.1f}M tokens in "
            f"{training['seconds'] / 60:.0f} min on {training['threads']} threads; of {found['words']} untrained words "
            f"{found['in_training_text']} occurrences, {found['repeated']} repeated; "
            f"trained {trained['right']} of {trained['n']}, rare {found['rare_repeated']['right']} of {len(w.RARE)}"
        )
    for name in names:
        missing = [k for k, found in card[name]["skills"].items() if found["low"] < 0.85]
        lines.append(f"{name}: not learned to 85%: {', '.join(missing)}")
    return "\n".join(lines)


def main() -> None:
    """Print the stored card, or measure it again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="ask every shipped model again and store what it says")
    if parser.parse_args().measure:
        shipped = [name for name in town.VARIANTS if (town.folder(name) / "model.safetensors").exists()]
        CARD.write_text(json.dumps({name: measure(name) for name in shipped}, indent=1) + "\n")
    print(table(read()))


if __name__ == "__main__":
    main()
