"""The text that a model reads: every turn, token and the strange span at its place, and what was cut is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers as hf
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

import veriscope
from veriscope.cases import find, least_expected, log_of, mark, transcript, units
from veriscope.cases.transcript import BadTemplate, NoTemplate, NothingBefore, TooLong
from veriscope.subjects import CharReader, Subject, load
from veriscope.zoo import town

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Où est l'été? Tell me."},
        {"role": "assistant", "content": " It is far away, in Spain."},
        {"role": "user", "content": "Sure?"},
    ]
}


def bytes_tokenizer(template: str | None = None) -> hf.PreTrainedTokenizerFast:
    """Every byte a token, as GPT-2's tokenizer has it with no merges."""
    vocab = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    out = hf.PreTrainedTokenizerFast(tokenizer_object=inner)
    out.chat_template = template
    return out


def reader_of_bytes(template: str | None = None, context: int = 256) -> Subject:
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = hf.GPT2Config(vocab_size=256, n_positions=context, n_embd=16, n_layer=2, n_head=2, **ends)
    return load(hf.GPT2LMHeadModel(config).eval(), tokenizer=bytes_tokenizer(template), name="bytes")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return veriscope.load(town.folder("town"))


def test_a_prompt_goes_on_as_it_stands(subject: Subject) -> None:
    log = log_of({"prompt": "in which room is the coin ? answer :", "completion": "garden . and so on"})

    seen = transcript(log, find(log, "garden"), subject)

    assert seen.text == "in which room is the coin ? answer : garden"
    assert seen.context == "in which room is the coin ? answer :"
    assert [subject.reader.token(token) for token in seen.ending] == ["garden"]
    assert list(seen.before) == subject.tokens([seen.context])[0] and not seen.notes


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_every_turn_and_the_span_are_at_their_place(template: str | None) -> None:
    log, model = log_of(CHAT), reader_of_bytes(template)

    seen = transcript(log, find(log, "Spain"), model)

    assert [seen.text[slice(*chars)].strip() for chars in seen.turns if chars] == [
        "Be brief.", "Où est l'été? Tell me.", "It is far away, in Spain",
    ]  # fmt: skip
    assert seen.text[slice(*seen.span)] == "Spain" and seen.text.endswith("Spain")
    assert bytes(model.reader.decode(list(seen.ending)), "utf8").strip() == b"Spain"
    assert model.reader.decode(list(seen.before)) == seen.context
    assert seen.text.startswith("<system>" if template else "System: ")
    assert ("chat template" in seen.how) and (seen.special == (template is None))


def test_a_template_is_honoured_unless_refused() -> None:
    log, with_one = log_of(CHAT), reader_of_bytes(TEMPLATE)
    strange = find(log, "Spain")

    assert transcript(log, strange, with_one, "plain").text.startswith("System: Be brief.\nUser: ")
    with pytest.raises(NoTemplate, match=r"has no chat template\. Use template='plain'"):
        transcript(log, strange, reader_of_bytes(), "chat")


def test_a_template_that_refuses_a_role_says_so() -> None:
    strict = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"

    log = log_of(CHAT)
    with pytest.raises(BadTemplate, match="no system role"):
        transcript(log, find(log, "Spain"), reader_of_bytes(strict + "{{ m.content }}{% endfor %}"))


def test_turns_without_words_for_who_speaks_are_joined_and_it_is_said(subject: Subject) -> None:
    log = log_of({"messages": [{"role": "user", "content": "the sky is"}, {"role": "assistant", "content": "grey"}]})

    seen = transcript(log, find(log, "grey"), subject)

    assert seen.text == "the sky is grey" and "nor words for who speaks" in seen.how


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_what_does_not_fit_is_cut_from_the_oldest_on_and_said(template: str | None) -> None:
    model = reader_of_bytes(template, context=128)
    long = {"messages": [CHAT["messages"][0], {"role": "user", "content": "old " * 30},
                         {"role": "assistant", "content": "Aha."}, *CHAT["messages"][1:3]]}  # fmt: skip
    log = log_of(long)

    seen = transcript(log, find(log, "Spain"), model)

    assert len(seen.ids) <= 112 and seen.text[slice(*seen.span)] == "Spain" and "Be brief." in seen.text
    assert seen.text.count("old ") < 12 and (seen.turns[1] is None) == ("turns 1 (" in seen.notes[-1])
    assert "and bytes has a context of 128; " in seen.notes[-1] and "were cut" in seen.notes[-1]


def test_a_long_prompt_loses_its_beginning_and_a_long_span_is_refused() -> None:
    model = reader_of_bytes(context=64)
    log = log_of({"prompt": "x" * 90 + "end ", "completion": "ab" * 40})

    seen = transcript(log, find(log, (0, 4)), model)

    assert len(seen.ids) <= 56 and seen.text.endswith("xend abab") and "characters of the oldest turn" in seen.notes[-1]
    with pytest.raises(TooLong, match="takes 80 tokens and bytes has a context of 64"):
        transcript(log, find(log, (0, 80)), model)


def test_a_span_far_into_a_long_answer_keeps_its_place() -> None:
    model = reader_of_bytes(context=64)
    log = log_of({"prompt": "x", "completion": "abcdefghij" * 12 + "HERE and on"})

    seen = transcript(log, find(log, "HERE"), model)

    assert seen.text[slice(*seen.span)] == "HERE" and seen.text.endswith("ghijHERE") and len(seen.ids) <= 56


def test_nothing_before_the_first_token_is_said_or_refused() -> None:
    model = load(reader_of_bytes().module, tokenizer=CharReader([chr(n) for n in range(256)]), name="chars")
    log = log_of({"messages": [{"role": "assistant", "content": "ab"}]})
    log = type(log)("l", log.turns, "prompt")

    seen = transcript(log, find(log, "ab"), model)

    assert seen.target == (1, 2) and "that token is not measured" in seen.notes[-1]
    with pytest.raises(NothingBefore):
        transcript(log, find(log, (0, 1)), model)


def test_unknown_words_are_counted(subject: Subject) -> None:
    log = log_of({"prompt": "Hello big world", "completion": "garden"})

    assert "2 of 5 tokens are words that the tokenizer does not know." in (
        transcript(log, find(log, "garden"), subject).notes
    )


def test_the_least_expected_words_are_found_where_none_are_marked(subject: Subject) -> None:
    text = "the coin is in the garden . the bell is zembra attic . in which room is the coin ? answer :"
    log = log_of({"prompt": "two birds sing .", "completion": text})

    found = least_expected(log, subject)

    assert "zembra" in text[found.start : found.end] and found.found == "least expected"
    assert mark(log, None, subject) == found
    assert mark(log_of({"prompt": "a", "completion": text, "strange": "bell"}), None, subject).found == "text"


def test_sentences_turns_objects_and_views_are_units() -> None:
    log = log_of({"messages": [
        {"role": "system", "content": "Be brief. Be kind."},
        {"role": "user", "content": "Dr. Smith lost a coin. I really think the coin is gone.\nWhere is it?"},
        {"role": "assistant", "content": "Let me see. It is in the garden."},
    ]})  # fmt: skip
    seen = transcript(log, find(log, "garden"), reader_of_bytes())

    found = {unit.name: unit for unit in units(seen)}

    assert {name: unit.text for name, unit in found.items()} == {
        "y1": "Be brief.", "y2": "Be kind.", "s1": "Dr. Smith lost a coin.", "s2": "I really think the coin is gone.",
        "s3": "Where is it?", "s4": "Let me see.", "s5": "It is in the", "o:coin": "coin ... coin",
        "v1": "I really think the coin is gone.", "t0": "Be brief. Be kind.",
        "t1": "Dr. Smith lost a coin. I really think the coin is gone.\nWhere is it?",
    }  # fmt: skip
    for unit in found.values():
        assert " ... ".join(seen.text[slice(*span)] for span in unit.spans) == unit.text
    assert found["s5"].turn == 2 and found["o:coin"].kind == "object" and len(found["o:coin"].spans) == 2


@pytest.mark.data
def test_a_real_tokenizer_gives_the_tokens_of_the_whole_text(shared_data: Path) -> None:
    model = veriscope.load(shared_data / "lm" / "stories260k_hf")
    log = log_of({"prompt": "Once upon a time, there was a dog. It ran", "completion": " to the park and sang."})

    seen = transcript(log, find(log, "park"), model)

    assert list(seen.ids) == model.tokens([seen.text])[0] and not seen.notes
    assert seen.special and model.reader.decode(list(seen.ending)).strip() == "park"
