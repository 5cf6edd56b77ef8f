"""A GPT-2 wired by hand, whose every edge is known.

A token that is marked carries a signal. Head 0.0 averages the signal over the marked tokens, the MLP of block 0 turns
that into the answer, and the logits read it there. Head 1.1 copies the signal too, to where nobody reads.
"""

from __future__ import annotations

from functools import cache

import torch
import transformers as hf
from torch import Tensor

from veriscope.subjects import Subject, WordReader, load

WORDS = tuple(f"w{number}" for number in range(30))
ON, OFF, ANSWER, FOIL = "w1", "w2", "w20", "w21"
PATH = (("embed", "blocks.0.heads.v[0]"), ("blocks.0.heads.z[0]", "blocks.0.mlp"), ("blocks.0.mlp", "logits"))
_WIDTH, _HEADS = 16, 2
_HERE, _SIGNAL, _MEAN, _OUT, _MARK, _UNREAD = range(6)  # features, each a pair of coordinates of opposite sign


@cache
def wired(how: str = "saturating", read: str = "mlp") -> Subject:
    """The model.

    Args:
        how: "saturating" answers in full from a third of the signal on; "additive" in proportion to it.
        read: "mlp" is the wiring above; "head" has the logits read what the head writes, and the MLP write unread.
    """
    config = hf.GPT2Config(vocab_size=len(WORDS), n_positions=64, n_embd=_WIDTH, n_layer=2, n_head=_HEADS, n_inner=4,
                           layer_norm_epsilon=1e6, tie_word_embeddings=False, bos_token_id=None,
                           eos_token_id=None)  # fmt: skip
    module = hf.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            # with so large an epsilon and gain a norm hands on what it is given, since all features have mean zero
            weight.fill_(1e3) if "ln_" in name and name.endswith("weight") else weight.zero_()
        model = module.transformer
        model.wpe.weight[:] = _feature(_HERE)
        for word, signal in ((1, 1.0), (2, 0.0)):
            model.wte.weight[word] = signal * _feature(_SIGNAL) + _feature(_MARK)
        _wire_head(model.h[0], 0, _MEAN)
        _wire_head(model.h[1], 1, _UNREAD)
        _wire_mlp(model.h[0].mlp, how, _OUT if read == "mlp" else _UNREAD)
        read_from = _OUT if read == "mlp" else _MEAN
        module.lm_head.weight[20], module.lm_head.weight[21] = _feature(read_from), -_feature(read_from)
    return load(module, tokenizer=WordReader(WORDS), name=f"wired ({how}, {read})")


def _wire_head(block: object, head: int, to: int) -> None:
    """Look at marked tokens alike, take their signal, write it to a feature."""
    attention, size = block.attn, _WIDTH // _HEADS  # type: ignore[attr-defined]
    start = head * size
    attention.c_attn.weight[:, start] = 8 * _feature(_HERE) / 2
    attention.c_attn.weight[:, _WIDTH + start] = 8 * _feature(_MARK) / 2
    attention.c_attn.weight[:, 2 * _WIDTH + start] = _feature(_SIGNAL) / 2
    attention.c_proj.weight[start] = _feature(to)


def _wire_mlp(mlp: object, how: str, to: int) -> None:
    up, down = mlp.c_fc, mlp.c_proj  # type: ignore[attr-defined]
    if how == "saturating":  # a ramp from 0.05 to 0.22: flat at 1/3 and above
        up.weight[:, 0] = up.weight[:, 1] = 60 * _feature(_MEAN) / 2
        up.bias[0], up.bias[1] = -3, -13
        down.weight[0], down.weight[1] = 0.1 * _feature(to), -0.1 * _feature(to)
    else:  # far on the straight side of the activation
        up.weight[:, 0] = 10 * _feature(_MEAN) / 2
        up.bias[0] = 10
        down.weight[0], down.bias[:] = 0.1 * _feature(to), -_feature(to)


def _feature(number: int) -> Tensor:
    way = torch.zeros(_WIDTH)
    way[2 * number], way[2 * number + 1] = 1, -1
    return way


def scenes(signals: int = 3, count: int = 4) -> dict[str, tuple[str, ...]]:
    """Texts of fillers with an object of three marked tokens; in the clean text the first `signals` of them are on."""
    before = ("w5 w6", "w7 w8 w9", "w9", "w6 w5 w8 w7")
    behind = "w10 w11 w12 w13 w14 w15 w16 w17"
    clean = " ".join([ON] * signals + [OFF] * (3 - signals))
    texts = [f"{before[n % 4]} {{}} {behind}" for n in range(count)]
    return {
        "clean": tuple(text.format(clean) for text in texts),
        "corrupt": tuple(text.format(" ".join([OFF] * 3)) for text in texts),
        "answers": (ANSWER,) * count,
        "foils": (FOIL,) * count,
        "object": (clean,) * count,
    }


def pairs(signals: int = 3) -> dict[str, tuple[str, ...]]:
    """The same without the object, as patching takes it."""
    found = scenes(signals)
    del found["object"]
    return found
