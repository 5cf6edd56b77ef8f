"""The GPT-2 study offline: a folder of GPT-2 small's shape with random weights, for time and memory.

    VERISCOPE_DATA=/path/to/data python examples/gpt2_shape.py

A model that was never trained has nothing inside, so the exit status is 1 if any claim comes out as supported.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from prepare import HERE, data_folder, prepare
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from veriscope.ledger import Ledger
from veriscope.report.terminal import show
from veriscope.studies import Outcome, Study, read_study, run_study

END = "<|endoftext|>"


def write_gpt2(data: Path, folder: Path, *, layers: int = 12, seed: int = 0) -> Path:
    """Write config, random weights and GPT-2's real tokenizer as an ordinary model folder."""
    torch.manual_seed(seed)
    end = 50256
    config = GPT2Config(n_layer=layers, bos_token_id=end, eos_token_id=end)  # the rest is GPT-2 small by default
    GPT2LMHeadModel(config).save_pretrained(folder)
    bpe = data / "lm" / "gpt2_bpe"
    tokenizer = Tokenizer(BPE.from_file(str(bpe / "encoder.json"), str(bpe / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)
    fast.save_pretrained(folder)
    return folder


def on_random_weights(study: Study, folder: Path) -> Study:
    """The same study with another subject."""
    return dataclasses.replace(study, plan=study.plan.model_copy(update={"subject": str(folder)}))


def run(data: Path, work: Path, *, layers: int = 12, most_short: int = 240, most_few: int = 260) -> Outcome:
    """Write the model and the examples into `work` and run examples/gpt2.yaml there."""
    prepare(data, work / "build", most_reviews=20, most_short=most_short, most_few=most_few)
    model = write_gpt2(data, work / "gpt2-random", layers=layers)
    text = (HERE / "gpt2.yaml").read_text(encoding="utf-8")
    if layers < 12:
        text = text.replace("blocks.6.", f"blocks.{layers // 2}.")
    (work / "gpt2.yaml").write_text(text, encoding="utf-8")
    study = on_random_weights(read_study(work / "gpt2.yaml"), model)
    return run_study(study, Ledger.in_memory(), say=tell, progress=lambda claim: partial(tell_gate, claim))


def tell(text: str) -> None:
    """Progress goes to standard error, so that standard output holds the result alone."""
    print(text, file=sys.stderr, flush=True)


def tell_gate(claim: str, gate: str, state: str) -> None:
    """The same for the gates of a trial."""
    tell(f"{claim}: {gate} {state}")


def main() -> int:
    """Run, print what it took and what came out; 1 if random weights were found to hold something."""
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        outcome = run(data_folder(), Path(work))
        took = time.monotonic() - began
    show(outcome.verdicts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{took:.0f} s, {outcome.passes:,} forward passes of single examples, {peak:.2f} GiB at the peak")
    supported = [v.name for v in outcome.verdicts if v.word == "SUPPORTED"]
    if supported:
        print(f"supported on random weights: {', '.join(supported)}", file=sys.stderr)
    return 1 if supported else 0


if __name__ == "__main__":
    sys.exit(main())
