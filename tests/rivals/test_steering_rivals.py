"""Simple ways to steer, each held to its budgets; and edits that cannot know anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import WORDS, colours, toy
from transformers import GPT2Config, GPT2LMHeadModel

from veriscope.errors import BadSetting, NotRun, UnequalBudget
from veriscope.ledger import Ledger, count_tries, use
from veriscope.methods import LEACE, MeanDifference
from veriscope.rivals import (
    Budget,
    FineTune,
    LogitBias,
    PromptPrefix,
    SteeringTask,
    propensity,
    random_changes,
    shuffled_changes,
    text_costs,
)
from veriscope.rivals.logit_bias import BiasRule
from veriscope.subjects import Subject, WordReader, load

ENOUGH = Budget(examples=200, passes=600, trials=7)
EVERY = [PromptPrefix(), LogitBias(), FineTune(rates=(1e-3,))]


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=40, n_embd=32, n_layer=2, n_head=4)
    config.bos_token_id = config.eos_token_id = None
    return load(GPT2LMHeadModel(config), tokenizer=WordReader(WORDS), name="small")


def task_for(subject: Subject, max_cost: float = 0.05, n: int = 100) -> SteeringTask:
    sample = colours(n)
    yes, no = (subject.answer_ids(sample.texts, [word] * n) for word in ("yes", "no"))
    return SteeringTask(sample, yes, no, tuple(colours(30, seed=7).texts), max_cost)


def name(rival: Any) -> str:
    return type(rival).__name__


@pytest.mark.parametrize("rival", EVERY, ids=name)
@pytest.mark.parametrize("max_cost", [0.05, 0.5])
def test_a_rival_moves_held_out_prompts_within_the_cost_allowed(rival: Any, max_cost: float, subject: Subject) -> None:
    task = task_for(subject, max_cost)
    plain = text_costs(subject, task.neutral)

    rule = rival.fit(subject, task, budget=ENOUGH, used=ENOUGH)

    fresh = colours(60, seed=3)
    before = propensity(subject, fresh.texts, task.target_ids[:60], task.foil_ids[:60])
    moved = rule.propensity(subject, fresh, task.target_ids[:60], task.foil_ids[:60]) - before
    assert float(moved.mean()) > 0.05
    assert float((rule.neutral_cost(subject, task.neutral) - plain).mean()) <= max_cost + 1e-4
    assert rule.spent.trials <= ENOUGH.trials
    assert rule.spent.passes > 0
    assert torch.allclose(text_costs(subject, task.neutral), plain)  # the subject itself is left alone


@pytest.mark.parametrize("rival", EVERY, ids=name)
@pytest.mark.parametrize("what", ["examples", "passes", "trials"])
def test_a_rival_that_gets_less_than_the_method_is_refused(rival: Any, what: str, subject: Subject) -> None:
    less = {"examples": 50, "passes": 500, "trials": 3} | {what: 2}

    with pytest.raises(
        UnequalBudget, match=rf"{name(rival)} was given 2 {what} .* pass budget=Budget\(\.\.\., {what}="
    ):
        rival.fit(subject, task_for(subject), budget=Budget(**less), used=Budget(50, 500, 3))


def test_no_cost_allowed_means_hardly_any_steering(subject: Subject) -> None:
    task = task_for(subject, max_cost=-1.0)

    for rival in EVERY:
        rule = rival.fit(subject, task, budget=ENOUGH, used=ENOUGH)
        moved = rule.propensity(subject, task.sample, task.target_ids, task.foil_ids)
        assert torch.allclose(moved, propensity(subject, task.sample.texts, task.target_ids, task.foil_ids), atol=1e-4)


def test_the_cost_of_a_bias_is_what_a_run_with_it_costs(subject: Subject) -> None:
    texts = colours(5, seed=7).texts
    yes, no = WORDS.index("yes"), WORDS.index("one")
    rule = BiasRule(1.5, ((yes, 0.25), (no, 0.75)), Budget())

    cost = rule.neutral_cost(subject, texts)

    by_hand = torch.zeros(5)
    for token, share in rule.targets:
        for i, (text, ids) in enumerate(zip(texts, subject.tokens(texts), strict=True)):
            logits = subject.run([text], logits="all").logits[0, :-1].clone()  # type: ignore[index]
            logits[:, token] += 1.5
            by_hand[i] += share * torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    assert torch.allclose(cost, by_hand, atol=1e-5)


def test_a_larger_bias_than_the_one_found_would_cost_too_much(subject: Subject) -> None:
    task = task_for(subject)

    rule = LogitBias().fit(subject, task, budget=ENOUGH, used=ENOUGH)

    plain = text_costs(subject, task.neutral).mean()
    more = BiasRule(rule.bias * 1.05, rule.targets, Budget())
    assert float(rule.neutral_cost(subject, task.neutral).mean() - plain) == pytest.approx(0.05, abs=1e-3)
    assert float(more.neutral_cost(subject, task.neutral).mean() - plain) > 0.05
    assert LogitBias(largest=0.1).fit(subject, task, budget=ENOUGH, used=ENOUGH).bias == 0.1


def test_a_prefix_is_charged_for_the_same_tokens_as_the_text_alone(subject: Subject) -> None:
    rule = PromptPrefix(shots=()).fit(subject, task_for(subject, max_cost=5.0), budget=ENOUGH, used=ENOUGH)
    assert not isinstance(rule, NotRun)
    text = "one two three"

    cost = rule.neutral_cost(subject, [text])

    whole = rule.prefix(subject, "yes") + text
    ids = subject.tokens([whole])[0]
    logp = torch.log_softmax(subject.run([whole], logits="all").logits[0], -1)  # type: ignore[index]
    by_hand = -(logp[-3, ids[-2]] + logp[-2, ids[-1]]) / 2
    assert float(cost[0]) == pytest.approx(float(by_hand), abs=1e-5)


def test_a_prefix_that_cannot_be_spelled_is_not_run(subject: Subject) -> None:
    rival = PromptPrefix(templates=("Please say {target}",), shots=())

    assert isinstance(rival.fit(subject, task_for(subject), budget=ENOUGH, used=ENOUGH), NotRun)


def test_a_prompt_too_long_for_its_prefix_goes_without(subject: Subject) -> None:
    task = task_for(subject, max_cost=5.0)
    rule = PromptPrefix(templates=()).fit(subject, task, budget=ENOUGH, used=ENOUGH)
    long = task.sample.take([0])
    long = type(long)((type(long[0])("x", " ".join(["one"] * 39)),), "x", "h", "dev")

    moved = rule.propensity(subject, long, task.target_ids[:1], task.foil_ids[:1])

    assert torch.allclose(moved, propensity(subject, long.texts, task.target_ids[:1], task.foil_ids[:1]))


def test_the_same_seed_trains_the_same_copy(subject: Subject) -> None:
    task = task_for(subject)

    one, two = (FineTune(rates=(1e-3,)).fit(subject, task, budget=ENOUGH, used=ENOUGH).tuned for _ in range(2))

    assert one.hash == two.hash != subject.hash
    assert all(not w.requires_grad for w in one.module.parameters())


def test_training_that_runs_off_is_not_run_and_says_so(subject: Subject) -> None:
    rule = FineTune(rates=(1e30,)).fit(subject, task_for(subject), budget=ENOUGH, used=ENOUGH)

    assert isinstance(rule, NotRun) and "ran off" in rule.reason


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadSetting, match="positive numbers"):
        FineTune(rates=())
    with pytest.raises(BadSetting, match="batch=0"):
        FineTune(batch=0)
    with pytest.raises(BadSetting, match="above 0"):
        LogitBias(largest=0.0)


def test_random_edits_have_the_size_of_the_claims_and_nothing_else() -> None:
    subject, sample = toy(), colours()
    reading = MeanDifference("early", position="colour").fit(subject, sample)
    added, erased = reading.as_change("add"), LEACE("late").fit(subject, sample)

    vectors = torch.stack([c.vector for c in random_changes(added, 200)])  # type: ignore[misc]
    (other,) = random_changes(erased, 1, seed=3)

    assert added.vector is not None and other.left is not None and other.right is not None
    assert torch.allclose(vectors.norm(dim=1), added.vector.norm().expand(200), rtol=1e-5)
    assert float(vectors.mean(0).norm() / added.vector.norm()) < 0.2
    assert torch.allclose(other.right @ other.left, torch.eye(1), atol=1e-5)
    assert torch.equal(random_changes(added, 2)[1].vector, vectors[1])


def test_shuffled_label_edits_are_the_method_again_and_no_try() -> None:
    subject, sample = toy(), colours(300)
    with use(Ledger.in_memory()) as ledger:
        reading = MeanDifference("early", position="colour").fit(subject, sample)
        made = shuffled_changes(reading, subject, sample, 20)
        assert count_tries(ledger, examples=sample.hash, of="is_red") == 1

    vectors = torch.stack([c.vector for c in made])  # type: ignore[misc]
    feature = subject.module.feature
    assert torch.allclose(vectors.norm(dim=1), torch.tensor(reading.gap).expand(20), rtol=1e-4)
    assert 0.2 < float((vectors @ feature > 0).float().mean()) < 0.8  # no more towards the feature than away from it
    assert {c.toward for c in made} == {"True"}
