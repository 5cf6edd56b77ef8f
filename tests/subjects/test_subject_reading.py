"""Tokens, positions of fields, answers behind their prompts, and what is known without running the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from veriscope.errors import BadAnswer, BadPosition, BadPrompt
from veriscope.subjects import CharReader, Subject, WordReader, load
from veriscope.subjects.reader import Reader

PLACES = ("the", "cat", "in", "box", "dog", "red", "a", "saw")


@dataclass
class Row:
    text: str
    factors: dict[str, str] = field(default_factory=dict)
    answer: str | None = None


@dataclass
class Rows:
    examples: list[Row]


def byte_level() -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges: tokens carry the space before them, as GPT-2's do."""
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("b", "o"), ("bo", "x"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    vocab = {token: number for number, token in enumerate([*letters, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner)


def with_bytes() -> Subject:
    torch.manual_seed(0)
    config = hf.GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    return load(hf.GPT2LMHeadModel(config), tokenizer=byte_level())


def words() -> Subject:
    return load(tiny.build("gpt2"), tokenizer=WordReader(PLACES))


def test_a_field_stands_where_its_last_token_ends() -> None:
    rows = Rows([Row("the cat saw a dog", {"who": "cat"}), Row("a red cat cat in the box", {"who": "red cat"})])

    for subject in (words(), with_bytes()):
        at = subject.where("who", rows)
        ends = subject.type_at([row.text for row in rows.examples], at)
        assert [end.strip("Ġ") for end in ends] == ["cat", "cat"]
    assert words().where("who", rows).tolist() == [1, 2]


def test_the_last_whole_word_counts() -> None:
    subject = load(tiny.build("gpt2"), tokenizer=CharReader("abcdefghijklmnopqrstuvwxyz "))
    rows = Rows([Row("he saw the cat in there", {"who": "he"}), Row("saw the he", {"who": "he"})])

    assert subject.where("who", rows).tolist() == [1, 9]
    assert subject.where("who", Rows([Row("in the box", {"who": "he"})])).tolist() == [5]


def test_a_fast_tokenizer_and_a_plain_one_find_the_same_place(tmp_path: Path) -> None:
    fast = load(tiny.save(tiny.build("gpt2"), tmp_path))
    rows = Rows([Row("w1 w2 w3 w2", {"which": "w2"}), Row("w12 w1", {"which": "w1"})])

    assert fast.where("which", rows).tolist() == tiny.subject("gpt2").where("which", rows).tolist() == [3, 1]


def test_positions_pass_through_and_unknown_fields_are_named() -> None:
    subject, rows = words(), Rows([Row("the cat", {"who": "cat"}, answer="dog")])

    assert [subject.where(at, rows) for at in ("last", "first", "all", -2, "-2")] == ["last", "first", "all", -2, -2]
    with pytest.raises(BadPosition, match=r"'whom' is neither.*which has who, answer"):
        subject.where("whom", rows)
    with pytest.raises(BadPosition, match=r"'dog' does not occur in the prompt 'the cat'"):
        subject.where("answer", rows)


def test_answers_go_on_from_their_prompts() -> None:
    subject = with_bytes()
    reader = subject.reader

    found = subject.answer_ids(["the", "the cat", "the", "the "], ["cat", " the", "\ncat", "cat"])

    assert [reader.token(token) for token in found.tolist()] == ["Ġcat", "Ġthe", "Ċ", "cat"]
    assert words().answer_ids(["the cat"], ["dog"]).tolist() == [4]


def test_an_answer_without_a_token_of_its_own_is_refused() -> None:
    subject = with_bytes()

    with pytest.raises(BadAnswer, match=r"'cat the' does not go on from '...the '.*white space at the end"):
        subject.answer_ids(["the "], ["cat the"])
    with pytest.raises(BadAnswer, match="1 answers for 2 prompts"):
        subject.answer_ids(["the", "cat"], ["box"])


def test_an_encoder_takes_answers_of_one_token() -> None:
    subject = tiny.subject("bert")

    assert subject.answer_ids(["w1 w2"], ["w7"]).tolist() == [7]
    with pytest.raises(BadAnswer):
        subject.answer_ids(["w1 w2"], ["w7 w8"])


def test_tokens_and_their_types() -> None:
    subject = words()

    assert subject.tokens(["the cat", "dog"]) == [[0, 1], [4]]
    assert subject.type_at(["the cat", "dog"], "last") == ["cat", "dog"]
    assert subject.type_at(["the cat", "dog"], [0, 0]) == ["the", "dog"]
    with pytest.raises(BadPrompt, match=r"'cow' in 'the cow' is not in the vocabulary of 8 tokens"):
        subject.tokens(["the cow"])


def test_unknown_words_may_have_a_stand_in() -> None:
    reader = WordReader((*PLACES, "?"), unknown="?")

    assert reader.encode("the cow") == [0, 8] and reader.decode([0, 8]) == "the ?"
    assert CharReader("ab?", unknown="?").encode("abc") == [0, 1, 2]


def test_the_input_embedding_needs_no_run() -> None:
    subject = words()
    table = subject.module.transformer.wte.weight

    found = subject.embedding(["the cat", "dog"])

    torch.testing.assert_close(found[0], torch.cat([(table[0] + table[1]) / 2, table[1]]))
    torch.testing.assert_close(found[1], torch.cat([table[4], table[4]]))
    assert subject.passes == 0


def test_passes_are_counted() -> None:
    subject = words()

    subject.run(["the cat", "dog", "a"], logits="last")
    subject.acts(["the"], "embed")
    subject.generate(["the cat", "dog"], max_new_tokens=3)

    assert subject.passes == 3 + 1 + 2 * 3


def test_texts_are_read_once() -> None:
    class Counting(WordReader):
        def encode(self, text: str) -> list[int]:
            seen.append(text)
            return super().encode(text)

    seen: list[str] = []
    reader = Reader(Counting(PLACES))

    reader.encode(["the cat", "dog", "the cat"])
    reader.encode(["dog"])

    assert seen == ["the cat", "dog"]
