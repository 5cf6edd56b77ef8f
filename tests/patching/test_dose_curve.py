"""A dose curve begins at zero, follows plain runs, and tells a direction that matters from a random one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import subject
from tiny_pairs import ASKED, CLEAN, gaps

from veriscope.errors import UnknownSite, UserError
from veriscope.patching import dose_curve
from veriscope.patching.gaps import BadChoice
from veriscope.subjects import Add, Edit

SITE = "blocks.1.resid_post"
SAME = {"answers": ("w3",) * 3, "foils": ("w5",) * 3}


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3"])
@pytest.mark.parametrize("site, at", [(SITE, "last"), ("blocks.0.heads.z", "all"), ("blocks.2.mlp.act", 1)])
def test_every_dose_is_a_plain_run_and_none_is_nothing(family: str, site: str, at: str | int) -> None:
    one = subject(family)
    vector = torch.randn(one.site(site).size or 1, generator=torch.Generator().manual_seed(0))

    found = dose_curve(one, CLEAN, **ASKED, site=site, vector=vector, doses=[0, -1, 2.5], at=at)

    assert torch.allclose(found.effects_logits[0], torch.zeros(()), atol=1e-5)
    assert torch.allclose(found.controls_logits[0], torch.zeros(100), atol=1e-5) and float(found.p_values[0]) == 1.0
    for number, dose in enumerate(found.doses):
        values = vector.view(1, one.site(site).units, -1) if one.site(site).per_head else vector
        plain = gaps(one, CLEAN, Edit(site, Add(dose * values), at=at))
        assert torch.allclose(found.gaps[number], plain, atol=2e-5)


@pytest.mark.parametrize("planted", [True, False])
def test_a_direction_that_matters_stands_out_and_a_random_one_does_not(planted: bool) -> None:
    one = subject("gpt2")
    words = one.module.lm_head.weight.detach()
    random = torch.randn(32, generator=torch.Generator().manual_seed(1))
    way = words[3] - words[5] if planted else random
    way = way / way.norm()

    found = dose_curve(one, CLEAN, **SAME, site="blocks.2.resid_post", vector=way, doses=[0, 2, 8])

    assert (float(found.p_values[2]) <= 0.01) == planted
    assert not planted or found.estimate(2).low > 0
    assert "random" in str(found) and len(found.table()) == 3


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"vector": torch.ones(31)}, BadChoice, "vectors of 32 numbers"),
        ({"vector": torch.zeros(32)}, BadChoice, "not all zero"),
        ({"doses": []}, BadChoice, "finite number"),
        ({"doses": [float("nan")]}, BadChoice, "finite number"),
        ({"controls": 10}, BadChoice, "without its controls"),
        ({"site": "blocks.1.resid_pots"}, UnknownSite, "Did you mean"),
    ],
)
def test_bad_input_gives_one_error_that_tells_the_mend(changed: dict, error: type[UserError], words: str) -> None:
    given = {"site": SITE, "vector": torch.ones(32), "doses": [1.0], **changed}

    with pytest.raises(error, match=words):
        dose_curve(subject("gpt2"), CLEAN, **ASKED, **given)
