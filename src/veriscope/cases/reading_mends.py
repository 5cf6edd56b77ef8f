"""Mends of how text is read and tokens are chosen: spelling, word order, lost words, temperature, penalty."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from math import perm
from typing import Any

from veriscope.cases.mends import Asking, Mend, Words
from veriscope.cases.transcript import read
from veriscope.cases.units import Unit

TEMPERATURES = (0.7, 0.5, 0.3, 0.1)
PENALTIES = (1.1, 1.3, 1.6, 2.5)
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_GLUED = re.compile(r"(?<=\w)([.,?!:;])(?=\s|$)")
LONGEST_ORDERED = 16  # words of a sentence that is put in order
BEAM = 8
MOST_TRIED = 256  # ways to give rows that no word has to words that have no row


# ---- spelling


def spelled(asking: Asking) -> Iterator[Mend]:
    """Texts written as the tokenizer knows them: signs that nobody sees taken out, stops set apart, words it knows.

    Each rule is tried by itself and then all together; a rule that changes nothing here is left out.
    """
    unknown = _unknown_words(asking)
    rules = [
        ("take out signs that nobody sees", lambda text: _HIDDEN.sub("", unicodedata.normalize("NFKC", text))),
        ("set stops apart from words", lambda text: _GLUED.sub(r" \1", text)),
        ("one space between words, none at the end", lambda text: re.sub(r"[ \t\u00a0]+", " ", text).rstrip(" ")),
    ]
    if unknown:
        shown = ", ".join(f"'{old}' as '{new}'" for old, new in unknown.items())
        rules.append((f"write {shown}", lambda text: _known(text, unknown)))
    useful = [(what, rule) for what, rule in rules if rule(asking.words.text) != asking.words.text]
    for what, rule in useful:
        yield Mend(what, "tokenizer", asking.subject, partial(_by, rule))
    if len(useful) > 1:
        yield Mend(
            "; ".join(what for what, _ in useful), "tokenizer", asking.subject, lambda words: _all(useful, words)
        )


def _by(rule: Callable[[str], str], words: Words) -> str:
    return rule(words.text)


def _all(rules: Sequence[tuple[str, Any]], words: Words) -> str:
    text = words.text
    for _, rule in rules:
        text = rule(text)
    return text


def _unknown_words(asking: Asking) -> dict[str, str]:
    """Words that the tokenizer has no token for, and the known word that each is most like."""
    tokenizer = asking.subject.reader.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return {}
    known = sorted({word.strip() for word in getattr(tokenizer, "get_vocab", dict)()} - {""})
    out = {}
    for word in dict.fromkeys(re.findall(r"\S+", asking.words.text)):
        if unknown in asking.subject.reader.encode_bare(word):
            near = difflib.get_close_matches(_HIDDEN.sub("", word), known, n=1, cutoff=0.75)
            out.update({word: near[0]} if near else {})
    return out


def _known(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\S+", lambda found: words.get(found.group(), found.group()), text)


# ---- words that the tokenizer lost


def found_again(asking: Asking) -> Iterator[Mend]:
    """Words without a token get rows of the embedding that no word has: those that make the text itself likeliest.

    The strange answer plays no part in the choice.
    """
    subject, tokenizer = asking.subject, asking.subject.reader.tokenizer
    engine: Any = subject._engine
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or engine.embedding is None or not hasattr(tokenizer, "get_vocab"):
        return
    rows = sorted(set(range(engine.embedding.num_embeddings)) - set(tokenizer.get_vocab().values()))
    lost = [w for w in dict.fromkeys(asking.words.text.split()) if subject.reader.encode_bare(w) == [unknown]]
    if not lost or perm(len(rows), len(lost)) not in range(1, MOST_TRIED + 1):
        return
    names = [word for word in asking.words.text.split() if word in lost]
    ids = asking.plain.read(asking.words)
    if ids.count(unknown) != len(names):
        return
    tried: list[tuple[float, tuple[int, ...]]] = []
    for some in permutations(rows, len(lost)):
        given = dict(zip(lost, some, strict=True))
        filled = _filled(ids, unknown, [given[name] for name in names])
        share = asking.run(asking.plain, [(filled[:1], filled[1:])])[0]
        tried.append((float(share.gather(1, share.new_tensor(filled[1:]).long()[:, None]).sum()), some))
    best = dict(zip(lost, max(tried)[1], strict=True))
    shown = ", ".join(f"'{word}' (row {row})" for word, row in best.items())
    yield Mend(
        f"give the tokenizer back the words {shown}", "tokenizer", subject,
        reads=lambda words: _with_rows(asking, words, best, unknown),
    )  # fmt: skip


def _with_rows(asking: Asking, words: Words, given: dict[str, int], unknown: int) -> list[int]:
    ids = asking.plain.read(words)
    names = [w for w in words.text.split() if asking.subject.reader.encode_bare(w) == [unknown]]
    if ids.count(unknown) != len(names):
        return ids
    return _filled(ids, unknown, [given.get(name, unknown) for name in names])


def _filled(ids: Sequence[int], unknown: int, rows: Sequence[int]) -> list[int]:
    some = iter(rows)
    return [next(some) if token == unknown else token for token in ids]


# ---- order


def ordered(asking: Asking) -> Iterator[Mend]:
    """The same words in the order that the model expects: what is asked last, and each sentence by a beam search.

    Which order is likeliest is the model's own judgement of the text; the strange answer plays no part in it.
    """
    parts = asking.changes.parts
    new: dict[str, str] = {}
    for unit in parts:
        found = _likeliest(asking, unit)
        if found != unit.text:
            new[unit.text] = found
            yield _reordered(asking, {unit.text: found}, f"write '{unit.text}' as '{found}'")
    if len(new) > 1:
        yield _reordered(asking, new, f"put the words of {len(new)} sentences in the order that the model expects")
    changes: list[dict[str, str]] = [{}, new] if new else [{}]
    for unit in parts[:-1]:
        for change in changes:
            yield _last(asking, unit, change)


def _reordered(asking: Asking, new: dict[str, str], what: str) -> Mend:
    return Mend(what, "prompt", asking.subject, lambda words: _written(words.text, new))


def _last(asking: Asking, unit: Unit, new: dict[str, str]) -> Mend:
    """A sentence moved to the end, where what is asked belongs."""

    def rule(words: Words) -> str:
        if unit.text not in words.text:
            return words.text
        rest = re.sub(rf"{re.escape(unit.text)} *", "", words.text, count=1).rstrip(" ")
        return _written(f"{rest} {unit.text}", new)

    also = ", all words in the order that the model expects" if new else ""
    return Mend(f"move '{unit.text}' to the end{also}", "prompt", asking.subject, rule)


def _written(text: str, new: dict[str, str]) -> str:
    for old, words in new.items():
        text = text.replace(old, words)
    return text


def _likeliest(asking: Asking, unit: Unit) -> str:
    """The order of a sentence's words that the model finds likeliest behind what stands before the sentence."""
    words = re.findall(r"\S+", unit.text)
    if not 2 < len(words) <= LONGEST_ORDERED:
        return unit.text
    before = asking.words.text[: unit.spans[0][0]]
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in words:
        texts = {order: " ".join(words[n] for n in order) for _, order in beam}
        grown = []
        for _, order in beam:
            tried: set[str] = set()
            for n in range(len(words)):
                if n not in order and words[n] not in tried:
                    tried.add(words[n])
                    grown.append(((*order, n), f"{texts[order]} {words[n]}".strip()))
        nats = _nats(asking, before, [text for _, text in grown])
        ranked = sorted(zip(nats, (order for order, _ in grown), strict=True), reverse=True)
        beam = ranked[:BEAM]
    as_it_is = _nats(asking, before, [unit.text])[0]
    best, order = beam[0]
    return " ".join(words[n] for n in order) if best > as_it_is else unit.text


def _nats(asking: Asking, before: str, texts: Sequence[str]) -> list[float]:
    """Log-probability of each text behind what stands before it."""
    special, subject = asking.words.special, asking.subject
    todo = []
    for text in texts:
        ids = read(subject, f"{before}{text}", special)[0]
        first = len(read(subject, before.rstrip(" "), special)[0]) if before.strip() else len(ids) - len(
            subject.reader.encode_bare(text)
        )  # fmt: skip
        todo.append((ids[: max(1, first)], ids[max(1, first) :]))
    some = asking.run(asking.plain, [(a, b) for a, b in todo if b])
    found = iter(
        [
            float(s.gather(1, s.new_tensor(b).long()[:, None]).sum())
            for s, (_, b) in zip(some, [t for t in todo if t[1]], strict=True)
        ]
    )
    return [next(found) if b else 0.0 for _, b in todo]


# ---- choosing tokens


def cooler(asking: Asking) -> Iterator[Mend]:
    """Draws at a lower temperature."""
    for value in TEMPERATURES:
        yield Mend(f"draw at temperature {value}", "decoding", asking.subject, temperature=value)


def penalised(asking: Asking) -> Iterator[Mend]:
    """Tokens that the reply holds already made less likely."""
    for value in PENALTIES:
        yield Mend(f"repetition penalty {value}", "decoding", asking.subject, penalty=value)
