"""Writes the example files of the studies here from the shared real texts; nothing of them is kept in the repository.

VERISCOPE_DATA=/path/to/data python examples/prepare.py            # into examples/build
VERISCOPE_DATA=/path/to/data python examples/prepare.py /some/where
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VERB = {"singular": "was", "plural": "were"}
OTHER = {"singular": "plural", "plural": "singular"}
Row = dict[str, Any]


def data_folder() -> Path:
    """The folder of real models and texts, from VERISCOPE_DATA."""
    folder = Path(os.environ.get("VERISCOPE_DATA", ""))
    if not (folder / "text").is_dir():
        sys.exit("Name the folder of real models and texts: export VERISCOPE_DATA=/path/to/data")
    return folder


def prepare(data: Path, build: Path, *, most_reviews: int = 2_000, most_short: int = 500, most_few: int = 500) -> None:
    """Write every file of examples that the studies read.

    Args:
        data: The folder with `text/` in it.
        build: Where the files go; it is made.
        most_reviews: Review sentences, half of each class.
        most_short: The same for the file of short sentences, which a larger model can run on one core.
        most_few: Rows of the smaller file of nouns, for the same reason.
    """
    build.mkdir(parents=True, exist_ok=True)
    across = list(_prefixes(data, "nounpp_train", "nounpp_test"))
    write(build / "subject.jsonl", (subject_row(row) for row in across))
    write(build / "noun.jsonl", (noun_row(row) for row in across))
    few = across[:: max(1, len(across) // most_few)][:most_few]
    write(build / "noun_few.jsonl", (noun_row(row) for row in few))
    write(build / "reviews.jsonl", reviews(data, most_reviews))
    write(build / "reviews_short.jsonl", reviews(data, most_short, most_words=8))


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _prefixes(data: Path, *names: str) -> Iterator[Row]:
    """Each prefix once: it stands in the data several times, with is/are, has/have, do/does and go/goes."""
    seen = set()
    for name in names:
        text = (data / "text" / "subject_verb_agreement" / f"{name}.jsonl").read_text(encoding="utf-8")
        for row in map(json.loads, text.splitlines()):
            if row["clean_prefix"] not in seen:
                seen.add(row["clean_prefix"])
                yield row


def subject_row(row: Row) -> Row:
    """The subject's number decides the verb; the paired text has the other number.

    The verb is put in the past: the model of children's stories hardly knows is/are, has/have or do/does.
    """
    number = row["case"].split("_")[0]
    words, others = row["clean_prefix"].split(), row["patch_prefix"].split()
    nouns = {number: words[1], OTHER[number]: others[1]}
    return {
        "text": row["clean_prefix"],
        "number": number,
        "answer": VERB[number],
        "foil": VERB[OTHER[number]],
        "source": row["patch_prefix"],
        "expected": VERB[OTHER[number]],
        "frame": f"{nouns['singular']} {words[-1]}",
    }


def noun_row(row: Row) -> Row:
    """The number of the noun beside the verb decides it, as it does in a model that counts no further back."""
    subject, number = row["case"].split("_")
    words = row["clean_prefix"].split()
    bare = words[-1] if number == "singular" else words[-1].removesuffix("s")
    turned = bare + "s" if number == "singular" else bare
    head = (row["patch_prefix"] if subject == "plural" else row["clean_prefix"]).split()[1]
    return {
        "text": row["clean_prefix"],
        "number": number,
        "answer": VERB[number],
        "foil": VERB[OTHER[number]],
        "source": " ".join([*words[:-1], turned]),
        "expected": VERB[OTHER[number]],
        "frame": f"{head} {bare}",
        "subject": subject,
    }


def reviews(data: Path, most: int, most_words: int = 40) -> Iterator[Row]:
    """Film review sentences, evenly spaced through the files so that every part of them is met."""
    for label in ("neg", "pos"):
        path = data / "text" / "rt_polarity" / f"rt-polarity.{label}"
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
        fit = [line for line in dict.fromkeys(lines) if line and len(line.split()) <= most_words]
        step = max(1, len(fit) // (most // 2))
        for line in fit[::step][: most // 2]:
            yield {"text": line, "sentiment": label}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "build"
    prepare(data_folder(), target)
    print(f"wrote {', '.join(sorted(p.name for p in target.glob('*.jsonl')))} in {target}")
