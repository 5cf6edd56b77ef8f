"""Asks the models: what they say next, what a lens reads in them, how likely a text is. Many candidates at a time."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.subjects import Subject
from veriscope.zoo import town
from veriscope.zoo.incidents.planted import Build, Candidate, Check
from veriscope.zoo.town import grammar

LONG = 60  # tokens of a reply that may loop
CYCLES = 3  # repetitions that make a loop
_LONGEST = 12  # tokens of a loop's cycle
_MIN_LOOP = 12  # tokens of a loop


class Answers:
    """The next-word distributions of several models, each prompt asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Float[Tensor, "vocab"]] = {}

    def ask(self, wanted: Iterable[tuple[Build, str]]) -> None:
        """Run what is not known yet, each model once."""
        todo: dict[str, tuple[Build, dict[str, None]]] = {}
        for build, prompt in wanted:
            if (build.key, prompt) not in self._known:
                todo.setdefault(build.key, (build, {}))[1][prompt] = None
        for key, (build, prompts) in todo.items():
            logits = build.subject().run(list(prompts), logits="last").logits
            assert logits is not None
            for prompt, row in zip(prompts, logits.log_softmax(-1), strict=True):
                self._known[key, prompt] = row

    def distribution(self, build: Build, prompt: str) -> Float[Tensor, "vocab"]:
        """Log-probabilities of the next token."""
        self.ask([(build, prompt)])
        return self._known[build.key, prompt]

    def word(self, build: Build, prompt: str) -> str:
        """The most likely next word."""
        return build.subject().reader.token(int(self.distribution(build, prompt).argmax()))


def number_of(subject: Subject, word: str) -> int:
    """The token of a word; that of `<unk>` where the vocabulary lacks it."""
    return subject.reader.encode_bare(word)[0]


def lens(build: Build, prompts: Sequence[str], block: int) -> Float[Tensor, "prompt vocab"]:
    """The logit lens (interpreting GPT: the logit lens, 2020, nostalgebraist) at the last token behind one block."""
    subject = build.subject()
    with torch.no_grad():
        read = subject.acts(prompts, f"blocks.{block}.resid_post", "last")
        body = subject.module.get_submodule("transformer")
        return body.get_submodule("ln_f")(read) @ body.get_submodule("wte").weight.T


def reads(build: Build, check: Check, block: int) -> bool:
    """Whether the lens ranks the check's word above the others that it may choose from."""
    row, subject = lens(build, [check.prompt], block)[0], build.subject()
    right = row[number_of(subject, check.word)]
    return all(bool(right > row[number_of(subject, other)]) for other in check.among if other != check.word)


def surprises(subject: Subject, texts: Sequence[str]) -> list[float]:
    """Mean nats per token of each text, the first word left out: nothing tells it."""
    found = []
    for start in range(0, len(texts), 64):
        some = texts[start : start + 64]
        logits = subject.run(some, logits="all").logits
        assert logits is not None
        for row, ids in zip(logits, subject.tokens(some), strict=True):
            shares = row[: len(ids) - 1].log_softmax(-1)
            found.append(-float(shares.gather(1, torch.tensor(ids[1:])[:, None])[1:].mean()))
    return found


@lru_cache(maxsize=4)
def usual_surprise(variant: str = "town", n: int = 25, share: float = 0.99) -> float:
    """What 99 in 100 held-out prompts of the grammar stay below: spans of random words are left out."""
    subject = Build(settings={"variant": variant}).subject()
    skills = [skill for skill in grammar.SKILLS if skill not in ("induction", "repeat")]
    texts = [
        row.text for skill in skills for row in grammar.rows(skill, n, seed=99, habits=town.VARIANTS[variant].habits)
    ]
    return float(torch.tensor(surprises(subject, texts)).quantile(share))


def loop_of(text: str) -> tuple[int, int] | None:
    """Where a text that ends in a loop begins to loop, and the length of its cycle, in words; None without a loop."""
    words = text.split()
    for cycle in range(1, _LONGEST + 1):
        start = len(words) - cycle
        while start > 0 and words[start - 1] == words[start - 1 + cycle]:
            start -= 1
        if len(words) - start >= max(CYCLES * cycle, _MIN_LOOP):
            return start, cycle
    return None


def reinforced(build: Build, prompt: str, reply: str) -> float | None:
    """How much likelier each word of the loop's last whole cycle is than it was in the first one, in nats.

    A loop feeds itself: each repetition makes the next one likelier (Learning to Break the Loop, 2022, Xu et al.).
    """
    found, subject = loop_of(reply), build.subject()
    if found is None:
        return None
    start, cycle = found
    text = f"{prompt} {reply}"
    logits = subject.run([text], logits="all").logits
    assert logits is not None
    ids = torch.tensor(subject.tokens([text])[0])
    each = logits[0, : len(ids) - 1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    first = len(prompt.split()) + start
    return float(each[-cycle:].mean() - each[first : first + cycle].mean())


def holds(check: Check, of: Build, answers: Answers) -> bool:
    """Whether a check holds for the model that it names, or else for that of the incident."""
    build = check.model or of
    if check.test == "says":
        return answers.word(build, check.prompt) == check.word
    if check.test == "reads":
        return reads(build, check, 2)
    if check.test == "unreadable":
        return not reads(build, check, 1) and not reads(build, check, 2)
    if check.test == "surprising":
        return surprises(build.subject(), [check.prompt])[0] > usual_surprise()
    if check.test == "unlikely":
        row = answers.distribution(build, check.prompt)
        token = number_of(build.subject(), check.word)
        return token != int(row.argmax()) and float(row[token]) < math.log(0.2)
    gained = reinforced(build, check.prompt, check.word)
    return gained is not None and gained > 0


def drawn(row: Float[Tensor, "vocab"], seed: int) -> int:
    """One token at temperature 1."""
    return int(torch.multinomial(row.exp(), 1, generator=torch.Generator().manual_seed(seed)))


def prepare(candidates: Sequence[Candidate], answers: Answers) -> None:
    """Ask all that the checks of these candidates ask for, many at a time."""
    answers.ask([(k.model or c.model, k.prompt) for c in candidates for k in c.checks if k.test == "says"])


def said(candidates: Sequence[Candidate], answers: Answers) -> list[str]:
    """The reply to each candidate: one word, or many where a loop is looked for; empty where it ends at once."""
    answers.ask([(c.model, c.prompt) for c in candidates if c.reply != "long"])
    long: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.reply == "long":
            long[candidate.model.key].append(candidate)
    replies: dict[tuple[str, str], str] = {}
    for key, group in long.items():
        texts = group[0].model.subject().generate([c.prompt for c in group], max_new_tokens=LONG)
        replies |= {(key, c.prompt): text.strip() for c, text in zip(group, texts, strict=True)}
    return [replies[c.model.key, c.prompt] if c.reply == "long" else _short_reply(c, answers) for c in candidates]


def _short_reply(candidate: Candidate, answers: Answers) -> str:
    row, reader = answers.distribution(candidate.model, candidate.prompt), candidate.model.subject().reader
    seed = int.from_bytes(hashlib.sha256(candidate.prompt.encode()).digest()[:4], "big")
    token = drawn(row, seed) if candidate.reply == "sampled" else int(row.argmax())
    return "" if token in reader.special else reader.token(token)
