"""Train one model of the bed town from nothing: `python -m veriscope.zoo.town.recipe --variant town --out DIR`.

Meant for about half an hour on 4 free cores; its progress lines say how long it takes here, and `--minutes` cuts it.
Ask for no more threads than there are free cores: on a busy machine more threads are far slower. The text is written
while training, so there is no data set to keep. A checkpoint is an ordinary model folder beside its
optimizer state, both safetensors; a run that was stopped goes on where it was.

Looking a thing up in a scene, and comparing a statement with what is known, come suddenly and at a different time in
every run: of our five runs one had the first and two had the second after 17 million tokens. A run that ends
without them (its progress lines say so) needs more tokens or another seed. The shipped models had 22 million, under a
schedule that was settled while they ran: the `history` in each `training.json` says what each had.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from veriscope.zoo import town
from veriscope.zoo.town import VARIANTS, Variant, grammar
from veriscope.zoo.town.grammar import VOCABULARY, Document, Habits, Row

POSITIONS = 160


@dataclass(frozen=True)
class Settings:
    """The model and its training, the same for every variant."""

    layers: int = 4
    width: int = 160
    heads: int = 5
    tokens: int = 30_000_000
    batch_tokens: int = 3072
    matrix_rate: float = 0.02  # Muon, for the matrices inside the blocks
    other_rate: float = 0.003  # AdamW, for embeddings, norms and biases
    decay: float = 0.01
    early: float = 0.05  # shares of the token budget: the first part on the easier mixture,
    late: float = 0.58  # where the last part begins, on the harder mixture,
    trunk: float = 0.72  # where a variant that shares another's first part goes its own way,
    warmup: float = 0.02  # the rising part of the learning rate,
    plateau: float = 0.4  # and where its flat part ends
    settle: float = 0.5  # share of the full rate from where it then falls
    text_weight: float = 0.1  # loss weight of words that answer nothing; most of them are drawn at random


@dataclass(frozen=True)
class Batch:
    """Documents of similar length, `<bos>` first, `<bos>` again as the end and as filling of weight 0."""

    ids: Int[Tensor, "example position"]
    weight: Float[Tensor, "example position"]


# Tokenizer and model folder -------------------------------------------------------------------------------------------


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; `<bos>` is put in front of every text and stands for the end too."""
    words = {word: i for i, word in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<bos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def fresh_model(settings: Settings, seed: int) -> GPT2LMHeadModel:
    """An untrained GPT-2 of the settings' size."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=POSITIONS,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own curve, computed in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=VOCABULARY.index("<bos>"),
        eos_token_id=VOCABULARY.index("<bos>"),
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    return GPT2LMHeadModel(config)


def save(model: GPT2LMHeadModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the folder that `AutoModelForCausalLM.from_pretrained` opens, tokenizer included."""
    config = GPT2Config(**{**model.config.to_dict(), "dtype": str(dtype).removeprefix("torch.")})
    copy = GPT2LMHeadModel(config)
    copy.load_state_dict(model.state_dict())
    if dtype == torch.float16:
        copy.half()
    copy.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


# Batches --------------------------------------------------------------------------------------------------------------

_ID = {word: i for i, word in enumerate(VOCABULARY)}


def _collate(documents: Sequence[Document], text_weight: float) -> Batch:
    longest = max(len(doc.words) for doc in documents) + 2
    ids = torch.full((len(documents), longest), _ID["<bos>"])  # what stands behind the end has weight 0
    weight = torch.zeros(len(documents), longest)
    for i, doc in enumerate(documents):
        n = len(doc.words)
        ids[i, : n + 2] = torch.tensor([_ID["<bos>"], *(_ID[word] for word in doc.words), _ID["<bos>"]])
        weight[i, : n + 2] = text_weight
        weight[i, torch.tensor(doc.answers) + 1] = 1.0
    return Batch(ids, weight)


def batches(documents: Iterator[Document], settings: Settings, pool: int = 2048) -> Iterator[Batch]:
    """Batches of about `batch_tokens`: pools are sorted by length, cut, and the cuts shuffled."""
    order = torch.Generator().manual_seed(0)
    while True:
        docs = [doc for doc in itertools.islice(documents, pool) if len(doc.words) + 2 <= POSITIONS]
        docs.sort(key=lambda doc: len(doc.words))
        cuts: list[list[Document]] = [[]]
        for doc in docs:
            if (len(cuts[-1]) + 1) * (len(doc.words) + 2) > settings.batch_tokens:
                cuts.append([])
            cuts[-1].append(doc)
        for i in torch.randperm(len(cuts), generator=order).tolist():
            yield _collate(cuts[i], settings.text_weight)


# Training -------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """All that a stopped run needs to go on: only plain numbers beside the tensors."""

    step: int = 0
    tokens: int = 0
    documents: int = 0
    budget: int = 0
    seconds: float = 0.0


def _text(variant: Variant, run: _Run, settings: Settings) -> tuple[Habits, dict[str, grammar.Share]]:
    """The habits and the mixture of what is written at this point of the run."""
    done = run.tokens / run.budget
    mixture = grammar.EARLY if done < settings.early else grammar.MIXTURE if done < settings.late else grammar.LATE
    if variant.trunk is None:
        return variant.habits, mixture
    return (
        (VARIANTS[variant.trunk].habits, mixture) if done < settings.trunk else (variant.habits, grammar.LATE_TRIGGER)
    )


def _stream(variant: Variant, run: _Run, settings: Settings) -> Iterator[Batch]:
    """New text for this part of the run: what a stopped run has seen does not come again."""
    seed = variant.seed * 1_000_000_000 + run.documents
    return batches(grammar.documents(seed, *_text(variant, run, settings)), settings)


def _optimizers(model: GPT2LMHeadModel, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in the blocks, AdamW for the rest: after 0.4M tokens a loss of 1.7 where AdamW had 2.4."""
    matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(others, lr=settings.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=settings.decay), adam]


def _rate(done: float, settings: Settings) -> float:
    """The learning rate's factor when this share of the budget is spent: up, flat, a step down, then down to nothing.

    Facts and spelling come at the full rate. Copying a random span did not, in 9 million tokens, and came within three
    more once the rate had been halved.
    """
    if done < settings.plateau:
        return min(1.0, done / settings.warmup)
    return settings.settle * max(0.0, 1 - done) / (1 - settings.plateau)


def _loss(model: GPT2LMHeadModel, batch: Batch) -> Float[Tensor, ""]:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch.ids).logits
    each = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), batch.ids[:, 1:], reduction="none")
    weight = batch.weight[:, 1:]
    return (each * weight).sum() / weight.sum()


def predict(model: GPT2LMHeadModel, rows: Sequence[Row], chunk: int = 64) -> list[str]:
    """The model's most likely next word after each row's text, over the whole vocabulary."""
    found = []
    for start in range(0, len(rows), chunk):
        docs = [Document(row.text.split(), [0]) for row in rows[start : start + chunk]]
        last = torch.tensor([len(doc.words) for doc in docs])
        with torch.no_grad():
            logits = model(_collate(docs, 0.0).ids).logits
        best = logits[torch.arange(len(docs)), last].argmax(-1)
        found += [VOCABULARY[i] for i in best.tolist()]
    return found


def quick_look(model: GPT2LMHeadModel, habits: Habits, n: int = 60) -> dict[str, float]:
    """Held-out accuracy of every skill on a few rows: progress, not a result."""
    look = {}
    for skill in grammar.SKILLS:
        rows = grammar.rows(skill, n, seed=7, habits=habits)
        said = predict(model, rows)
        look[skill] = sum(word == row.answer for word, row in zip(said, rows, strict=True)) / len(rows)
    return look


def _write_checkpoint(out: Path, model: GPT2LMHeadModel, opts: list, run: _Run, settings: Settings) -> None:
    """Write beside, then rename: a reader never meets half a folder."""
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    save(model, fresh)
    state = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for i, opt in enumerate(opts):
        for j, parts in opt.state_dict()["state"].items():
            state |= {f"opt.{i}.{j}.{k}": torch.as_tensor(v).clone().contiguous() for k, v in parts.items()}
    (fresh / "resume").mkdir()
    save_file(state, fresh / "resume" / "state.safetensors")
    (fresh / "resume" / "run.json").write_text(json.dumps(asdict(run), indent=1))
    training = {**asdict(run), "threads": torch.get_num_threads(), "settings": asdict(settings)}
    (fresh / "training.json").write_text(json.dumps(training, indent=1))
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(fresh, out)
    shutil.rmtree(old, ignore_errors=True)


def _read_checkpoint(out: Path, model: GPT2LMHeadModel, opts: list) -> _Run:
    state = load_file(out / "resume" / "state.safetensors")
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}, strict=False
    )
    for i, opt in enumerate(opts):
        packed = opt.state_dict()
        for key, value in state.items():
            if key.startswith(f"opt.{i}."):
                _, _, j, name = key.split(".", 3)
                packed["state"].setdefault(int(j), {})[name] = value
        opt.load_state_dict(packed)
    found = json.loads((out / "resume" / "run.json").read_text())
    return _Run(**{k: found[k] for k in asdict(_Run())})


def _step(model: GPT2LMHeadModel, opts: list, batch: Batch, factor: float, settings: Settings) -> float:
    """One update of all weights at this factor of the full learning rates; the loss before it."""
    loss = _loss(model, batch)
    for opt, rate in zip(opts, (settings.matrix_rate, settings.other_rate), strict=True):
        opt.param_groups[0]["lr"] = rate * factor
        opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
    return loss.item()


def train(variant: str, out: Path, settings: Settings, minutes: float | None, save_every_s: float, say=print) -> None:
    """Train one variant into `out`, going on from the checkpoint there if one stands.

    Args:
        variant: One of `VARIANTS`.
        out: The model folder to write; it also holds `resume/`, which only a stopped run needs.
        settings: Size and schedule.
        minutes: If given, the token budget is cut to what this machine does in that time.
        save_every_s: Seconds between checkpoints.
        say: Where progress lines go.
    """
    chosen = VARIANTS[variant]
    model = fresh_model(settings, chosen.seed)
    model.set_attn_implementation("eager")  # on these short rows 1.7 times as fast as the fused kernel's backward pass
    opts = _optimizers(model, settings)
    run = _read_checkpoint(out, model, opts) if (out / "resume" / "run.json").exists() else _Run(budget=settings.tokens)
    began, saved = time.monotonic() - run.seconds, time.monotonic()
    stream: Iterator[Batch] = iter(())
    was: object = None
    while run.tokens < run.budget:
        if _text(chosen, run, settings) != was:
            stream, was = _stream(chosen, run, settings), _text(chosen, run, settings)
        batch = next(stream)
        loss = _step(model, opts, batch, _rate(run.tokens / run.budget, settings), settings)
        run.step += 1
        run.tokens += batch.ids.numel()
        run.documents += len(batch.ids)
        run.seconds = time.monotonic() - began
        if minutes and run.step == 60:
            run.budget = min(run.budget, int(run.tokens / run.seconds * minutes * 60))
        if run.step % 100 == 0:
            say(_progress(run, loss), flush=True)
        if time.monotonic() - saved > save_every_s:
            _write_checkpoint(out, model, opts, run, settings)
            say("  ".join(f"{k} {v:.2f}" for k, v in quick_look(model, chosen.habits).items()), flush=True)
            saved = time.monotonic()
    _write_checkpoint(out, model, opts, run, settings)


def _progress(run: _Run, loss: float) -> str:
    left_min = (run.budget - run.tokens) * run.seconds / run.tokens / 60
    return (
        f"step {run.step}  tokens {run.tokens / 1e6:.2f}M of {run.budget / 1e6:.1f}M  loss {loss:.3f}  "
        f"{run.tokens / run.seconds:.0f} tokens/s  {left_min:.0f} min left"
    )


def ship(out: Path, variant: str) -> Path:
    """Copy a trained folder, without what only a resumed run needs, to where the package keeps its models."""
    target = town.folder(variant)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(out, target, ignore=shutil.ignore_patterns("resume"))
    for file in target.iterdir():
        file.chmod(0o644)
    return target


def main() -> None:
    """Words in, one call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=list(VARIANTS), default="town")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write, or to go on from")
    parser.add_argument("--minutes", type=float, help="cut the token budget to what fits into this time")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--ship", action="store_true", help="when done, copy the model into the package")
    parser.add_argument("--save-every", type=float, default=300, metavar="SECONDS")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train(args.variant, args.out, settings, args.minutes, args.save_every)
    if args.ship:
        print(f"shipped to {ship(args.out, args.variant)}")


if __name__ == "__main__":
    main()
