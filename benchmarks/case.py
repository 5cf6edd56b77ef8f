"""`python -m benchmarks.case`: a case of 400 tokens and 20 sentences on a GPT-2-small-shaped model, in bare passes.

Outside causes, Shapley values, cruxes and the flow map are timed beside the bare forward pass of the same text (all
logits, as transformers gives them), in turn and in one process. The goal is 40 bare passes at 4 threads. `--rest` times
the cause list, the repairs and the page of the same case in seconds; the goal is 5 minutes on 4 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import veriscope
from benchmarks.inputs import SHAPES
from veriscope.cases import Flow, cruxes, find, log_of, outside, shapley, transcript, units
from veriscope.cases.case import Options, begin, finish
from veriscope.cases.changes import Changes
from veriscope.cases.neutral import ENGLISH
from veriscope.cases.repair import repairs
from veriscope.report.case_page import write
from veriscope.subjects import Subject, WordReader

Clock = Callable[[], float]
GOAL = 40
SENTENCES, WORDS, STRANGE = 20, 20, 8  # a sentence of 20 tokens; the model's own next 8 tokens are the strange ones
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
DEAREST = "trigger_phrase"  # the cause whose repairs cost most: words, activations and training
SPREAD = 0.06  # of the weights: three times GPT-2's, so that an untrained model minds what it reads


def main(given: list[str] | None = None) -> None:
    """Time it and print the ratio."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--threads", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--drawn", action="store_true", help="strange words that the model would not say: fewer cruxes")
    asked.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: on a busy machine, with 1 thread")
    asked.add_argument("--rest", action="store_true", help="time causes, repairs and page instead")
    settings = asked.parse_args(given)
    torch.set_num_threads(settings.threads)
    clock = CLOCKS[settings.clock]
    found = rest(clock) if settings.rest else measure(settings.rounds, drawn=settings.drawn, clock=clock)
    print(json.dumps(found | {"threads": settings.threads, "load": os.getloadavg()[0]}, indent=1))


def measure(
    rounds: int, shape: str = "gpt2", warm: int = 1, *, drawn: bool = False, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Ratios to the bare forward pass: the median over rounds, after some that are not counted."""
    subject, log = case(shape, drawn)
    ids = torch.tensor(subject.tokens([" ".join(turn.text for turn in log.turns)]))
    model: Any = subject.module
    kept: list[dict[str, float]] = []
    said: dict[str, Any] = {}
    for _ in range(rounds + warm):
        with torch.no_grad():
            bare = statistics.median(_seconds(lambda: model(ids), clock) for _ in range(3))
        took, said = work(subject, log, clock)
        with torch.no_grad():
            bare = statistics.median([bare, *(_seconds(lambda: model(ids), clock) for _ in range(3))])
        kept.append({name: seconds / bare for name, seconds in took.items()} | {"bare_s": bare})
    found = {name: round(statistics.median(row[name] for row in kept[warm:]), 3) for name in kept[0]}
    total = sum(value for name, value in found.items() if name != "bare_s")
    return {"ratio": round(total, 1), "goal": GOAL, "parts": found, **said, "tokens": ids.shape[1]}


def case(shape: str = "gpt2", drawn: bool = False, seed: int = 0) -> tuple[Subject, Any]:
    """An untrained model and a log of 20 sentences whose answer is what it says itself, or drawn from its words.

    Of what it says itself every sentence is a crux, as nothing was learned, and so no crux can be tested.
    """
    import transformers

    width, layers, heads, vocab = SHAPES[shape]
    words = sorted({word for sentence in ENGLISH for word in sentence.split()})
    words = [*words, ".", *(f"w{n}" for n in range(vocab - len(words) - 1))]
    torch.manual_seed(seed)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=heads, vocab_size=vocab, initializer_range=SPREAD, **ends
    )
    model = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
    subject = veriscope.load(model, tokenizer=WordReader(words), name=f"untrained {shape}")
    rng = random.Random(seed)
    some = [word for word in words if word[1:].isdecimal()][:500]
    text = " ".join(" ".join([*rng.choices(some, k=WORDS - 1), "."]) for _ in range(SENTENCES))
    answer = " ".join(rng.choices(some, k=STRANGE)) if drawn else subject.generate([text], max_new_tokens=STRANGE)[0]
    return subject, log_of({"prompt": text, "completion": answer.strip()}, "case")


def work(subject: Subject, log: Any, clock: Clock) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each part of a case, and what it found."""
    took: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        begun = clock()
        out = run()
        took[name] = clock() - begun
        return out

    seen = transcript(log, find(log, log.turns[-1].text), subject)
    changes = Changes(seen, units(seen), subject)
    flow = Flow(changes)
    causes = timed("outside", lambda: outside(changes, recorder=flow))
    timed("shapley", lambda: shapley(changes, passes=Options().shapley_passes))
    sets = timed("cruxes", lambda: cruxes(changes, causes))
    timed("flow", lambda: flow.map(causes))
    return took, {
        "units": len(changes.units), "holds": causes.holds, "passes": round(causes.passes, 1),
        "cruxes": len(sets.found), "inputs": sets.inputs,
    }  # fmt: skip


def rest(clock: Clock, shape: str = "gpt2") -> dict[str, Any]:
    """Seconds of each step of a case and of its page, and of the repairs of the cause whose repairs cost most."""
    subject, log = case(shape)
    begun: list[tuple[str, float]] = []
    with TemporaryDirectory() as folder:
        found = finish(begin(log, subject), told=lambda step: begun.append((step, clock())))
        begun.append(("page", clock()))
        write(found, Path(folder) / "case.html")
    begun.append((f"repairs of {DEAREST}", clock()))
    changes = begin(log, subject)
    suspect, words = changes.parts[0].name, changes.parts[-1].text.split()
    tried = repairs(DEAREST, changes, suspects=[suspect], expected=words[0], spent=50.0)
    begun.append(("", clock()))
    took = {name: round(end - start, 1) for (name, start), (_, end) in pairwise(begun)}
    return {"seconds": took, "word": getattr(found.diagnosis, "word", ""), "tried": [one.verdict for one in tried]}


def _seconds(run: Callable[[], Any], clock: Clock) -> float:
    begun = clock()
    run()
    return clock() - begun


if __name__ == "__main__":
    main()
