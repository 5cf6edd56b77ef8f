"""From text to tokens and back, with one face for transformers' tokenizers and for small plain ones.

A plain tokenizer is any object with `encode(text) -> list[int]` and `decode(ids) -> str`, and optionally
`vocab_size` and `join`: what stands between a prompt and its continuation (" " unless it says otherwise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from veriscope.errors import BadPrompt, CannotLoad

_CACHED = 200_000


@dataclass(frozen=True)
class WordReader:
    """Words of a fixed vocabulary, separated by white space; `unknown` (if given) stands for all others."""

    vocab: Sequence[str]
    unknown: str | None = None
    join: str = " "

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocab)}

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        return _look_up(text.split(), self._ids, self.unknown, text)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(_spell(self.vocab, number) for number in ids)


@dataclass(frozen=True)
class CharReader:
    """One token for each character."""

    chars: Sequence[str]
    unknown: str | None = None
    join: str = ""

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {char: number for number, char in enumerate(self.chars)}

    @property
    def vocab_size(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> list[int]:
        return _look_up(text, self._ids, self.unknown, text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(_spell(self.chars, number) for number in ids)


def _look_up(parts: Sequence[str], ids: dict[str, int], unknown: str | None, text: str) -> list[int]:
    spare = ids.get(unknown) if unknown is not None else None
    found = [ids.get(part, spare) for part in parts]
    if None in found:
        missing = parts[found.index(None)]
        raise BadPrompt(f"'{missing}' in '{text[:60]}' is not in the vocabulary of {len(ids)} tokens.")
    return [number for number in found if number is not None]


def _spell(vocab: Sequence[str], number: int) -> str:
    """A model may have more logits than its tokenizer has words."""
    return vocab[number] if number < len(vocab) else f"<{number}>"


class Reader:
    """What a subject reads with: tokens of texts (kept, since the same texts are run again and again)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.is_hf = isinstance(tokenizer, PreTrainedTokenizerBase)
        if not self.is_hf and not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
            raise CannotLoad(
                f"{type(tokenizer).__name__} is no tokenizer: it needs encode(text) -> list of ids and "
                f"decode(ids) -> text. For words use veriscope.subjects.WordReader, for characters CharReader."
            )
        self.join: str = getattr(tokenizer, "join", " ")
        self._known: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int | None:
        size = len(self.tokenizer) if self.is_hf else getattr(self.tokenizer, "vocab_size", None)
        return None if size is None else int(size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens that the tokenizer adds by default."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            if len(self._known) + len(new) > _CACHED:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            self._known.update(zip(new, self._fresh(new), strict=True))
        return [self._known[text] for text in texts]

    def _fresh(self, texts: list[str]) -> list[list[int]]:
        if self.is_hf:
            return self.tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]
        return [[int(number) for number in self.tokenizer.encode(text)] for text in texts]

    def encode_bare(self, text: str) -> list[int]:
        """Token ids without any special token."""
        if self.is_hf:
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        if self.is_hf:
            return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.tokenizer.decode(list(ids))

    def token(self, number: int) -> str:
        """The token itself, as the vocabulary spells it."""
        if self.is_hf:
            return str(self.tokenizer.convert_ids_to_tokens(int(number)))
        return str(self.tokenizer.decode([int(number)]))

    def ends(self, texts: Sequence[str]) -> list[list[tuple[int, int]]] | None:
        """First and last-but-one character of every token; None where the tokenizer does not keep them."""
        if not self.is_hf or not self.tokenizer.is_fast:
            return None
        return self.tokenizer(list(texts), return_offsets_mapping=True, verbose=False)["offset_mapping"]

    @property
    def special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids) if self.is_hf else frozenset()
