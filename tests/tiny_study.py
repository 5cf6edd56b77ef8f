"""A model folder, examples and a study file small enough that a whole `veriscope try` takes a second or two."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers as hf
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("none", *(f"n{i}" for i in range(30)), "good", "fine", "bad", "poor", "yes", "no")
CONTEXT = 24
PURPOSE = {
    "question": "is the tone readable?",
    "problem_class": "a test",
    "cheaper": "count words",
    "harm": "none known",
    "stop": "after one look",
}


def model(folder: Path) -> Path:
    """A GPT-2 of two layers and width 16 with random weights, and a tokenizer of whole words."""
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = hf.GPT2Config(vocab_size=len(WORDS), n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, **ends)
    hf.GPT2LMHeadModel(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="none"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="none").save_pretrained(folder)
    return folder


def rows(n: int = 260, seed: int = 0) -> list[dict[str, str]]:
    """Texts that end in a word of good or bad tone, with a coin beside them; every text is its own cluster."""
    rng = random.Random(seed)
    out = []
    for item in range(n):
        tone = ("up", "down")[item % 2]
        last = rng.choice({"up": ("good", "fine"), "down": ("bad", "poor")}[tone])
        words = [f"n{rng.randrange(30)}" for _ in range(6)]
        coin = rng.choice(("heads", "tails"))
        out.append({"text": " ".join([*words, last]), "tone": tone, "coin": coin, "last": last, "film": f"film {item}"})
    return out


def write_rows(path: Path, what: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in what), encoding="utf-8")
    return path


def plan(**changed: Any) -> dict[str, Any]:
    """A study of two claims about two variables of the same rows, as the file would hold it."""
    given = {"path": "rows.jsonl", "cluster": "film"}
    whole: dict[str, Any] = {
        "subject": "model",
        "purpose": PURPOSE,
        "effort": {"draws": 3, "twins": 1, "random": 4, "folds": 3, "search": 16},
        "examples": {"tones": {**given, "label": "tone"}, "coins": {**given, "label": "coin"}},
        "findings": {
            "tone": {"method": "MeanDifference", "on": "tones", "site": "blocks.*.resid_post"},
            "coin": {"method": "MeanDifference", "on": "coins", "site": "blocks.1.resid_post"},
        },
        "claims": [
            {"represents": {"finding": "tone", "on": "tones"}},
            {"represents": {"finding": "coin", "on": "coins", "smallest_effect": 0.2}},
        ],
    }
    return {**whole, **changed}


def write_study(folder: Path, what: dict[str, Any] | str) -> Path:
    path = folder / "study.yaml"
    path.write_text(what if isinstance(what, str) else yaml.safe_dump(what, sort_keys=False), encoding="utf-8")
    return path


def lay_out(folder: Path) -> Path:
    """Model, rows and study in one folder; returns the study file."""
    model(folder / "model")
    write_rows(folder / "rows.jsonl", rows())
    return write_study(folder, plan())
