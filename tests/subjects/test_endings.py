"""Endings agree with plain runs in every family, whatever texts share; continuations agree with `generate`."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CAUSAL, WORDS, Bigrams, subject

from veriscope.errors import BadPrompt, NotAvailable
from veriscope.subjects import Add, Edit, Read, Subject, WordReader, load
from veriscope.subjects.endings import Endings, continuations, saliency

BASE = [4, 2, 3, 9, 8, 7, 6, 5, 11, 12, 13]
ENDING = [5, 21, 22]
CONTEXTS = [BASE, BASE[:3] + BASE[6:], [40, *BASE], [*BASE[:5], 30, 31, 32, *BASE[5:]], [9]]


def plain(one: Subject, before: list[int], ending: list[int]) -> torch.Tensor:
    """Log-probabilities of an ending by one run of the whole text."""
    text = " ".join(WORDS[number] for number in [*before, *ending[:-1]])
    logits = one.run([text], logits="all").logits
    assert logits is not None
    rows = logits[0, len(before) - 1 :].log_softmax(-1)
    return rows[torch.arange(len(ending)), torch.tensor(ending)]


class Kept:
    """A watch that keeps everything."""

    def __init__(self, *sites: str) -> None:
        self.sites, self.rows = sites, {}

    def see(self, site: str, acts: torch.Tensor, text: torch.Tensor, position: torch.Tensor) -> None:
        for row, n, p in zip(acts, text.tolist(), position.tolist(), strict=True):
            self.rows[site, n, p] = row


@pytest.mark.parametrize("family", CAUSAL)
def test_endings_agree_with_plain_runs(family: str) -> None:
    one = subject(family)
    endings = Endings(one, [*BASE, *ENDING[:-1]])

    found = endings.run([(before, ENDING) for before in CONTEXTS] + [(BASE, [7])])

    for before, ending in zip(CONTEXTS, found, strict=False):
        torch.testing.assert_close(ending.nats, plain(one, before, ENDING), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[-1].nats, plain(one, BASE, [7]), atol=2e-5, rtol=1e-5)
    assert endings.why_plain or endings.passes < len(CONTEXTS) + 7


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_watch_sees_what_a_plain_run_reads(family: str) -> None:
    one, sites = subject(family), ("blocks.0.attn_out", "blocks.2.resid_post", "blocks.1.heads.z", "blocks.2.mlp_out")
    watch, before = Kept(*sites), CONTEXTS[1]

    Endings(one, [*BASE, *ENDING[:-1]]).run([(before, ENDING)], watch)

    run = one.run([" ".join(WORDS[n] for n in [*before, *ENDING[:-1]])], read=[Read(site) for site in sites])
    assert {p for _, _, p in watch.rows} == set(range(3, len(before) + 2))
    for (site, _, position), row in watch.rows.items():
        torch.testing.assert_close(row, run[site][0, position], atol=2e-5, rtol=1e-5)


def test_a_longer_text_than_the_first_call_knew_is_run_right() -> None:
    one = subject("llama")
    endings = Endings(one, BASE[:4])
    endings.run([(BASE[:3], [5])])
    long = [*BASE, *BASE]

    found = endings.run([(long, ENDING)])[0]

    torch.testing.assert_close(found.nats, plain(one, long, ENDING), atol=2e-5, rtol=1e-5)


def test_a_module_of_no_family_is_run_whole() -> None:
    one = load(Bigrams(), tokenizer=WordReader(WORDS))
    endings = Endings(one, BASE)

    found = endings.run([(before, ENDING) for before in CONTEXTS[:2]])

    assert endings.why_plain
    for before, ending in zip(CONTEXTS[:2], found, strict=True):
        torch.testing.assert_close(ending.nats, plain(one, before, ENDING))


def test_what_does_not_fit_or_does_not_continue_is_refused() -> None:
    with pytest.raises(NotAvailable, match="does not continue a text"):
        Endings(subject("bert"), BASE)
    with pytest.raises(BadPrompt, match="longer than the context of 32"):
        Endings(subject("gpt2"), BASE).run([(BASE * 4, ENDING)])


def test_the_cost_foretold_is_the_cost() -> None:
    endings = Endings(subject("gpt2"), [*BASE, *ENDING[:-1]])
    endings.run([(BASE, ENDING)])
    before, texts = endings.passes, [(before, ENDING) for before in CONTEXTS]

    foretold = endings.cost(texts)
    endings.run(texts)

    assert endings.passes - before == pytest.approx(foretold)


@pytest.mark.parametrize("family", ("gpt2", "llama", "bigrams"))
def test_continuations_are_those_of_generate(family: str) -> None:
    one = load(Bigrams(), tokenizer=WordReader(WORDS)) if family == "bigrams" else subject(family)
    contexts = [BASE, BASE[2:7]]
    texts = [" ".join(WORDS[number] for number in ids) for ids in contexts]

    said, cost = continuations(one, contexts, tokens=5, draws=3, seed=1)

    assert [some[0] for some in said] == one.generate_ids(texts, max_new_tokens=5)
    assert [len(some) for some in said] == [4, 4] and cost > 0
    assert len({tuple(ids) for some in said for ids in some[1:]}) > 1
    assert said == continuations(one, contexts, tokens=5, draws=3, seed=1)[0]


def test_draws_follow_the_probabilities() -> None:
    one = subject("gpt2")
    text = " ".join(WORDS[number] for number in BASE)
    logits = one.run([text], logits="last").logits
    assert logits is not None

    said, _ = continuations(one, [BASE], tokens=1, draws=2000, seed=0)

    share = torch.bincount(torch.tensor([ids[0] for ids in said[0][1:]]), minlength=50) / 2000
    assert (share - logits[0].softmax(-1)).abs().max() < 0.04


@pytest.mark.parametrize("family", ("gpt2", "gemma2"))
def test_saliency_is_the_slope_of_the_log_probability(family: str) -> None:
    one = subject(family)
    found = saliency(one, BASE, ENDING)
    text = " ".join(WORDS[number] for number in [*BASE, *ENDING[:-1]])
    embed = one.run([text], read=["embed"])["embed"][0]

    for place in (0, 6):
        both = []
        for sign in (1, -1):
            edit = Edit("embed", Add(sign * 1e-3 * embed[place]), at=place)
            logits = one.run([text], edits=[edit], logits="all").logits
            assert logits is not None
            rows = logits[0, len(BASE) - 1 :].double().log_softmax(-1)
            both.append(rows[torch.arange(3), torch.tensor(ENDING)].sum())
        assert float(found[place]) == pytest.approx(float(both[0] - both[1]) / 2e-3, rel=0.05, abs=0.02)
