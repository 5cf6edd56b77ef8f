"""Tiny random models of every family, big enough to tell a right site from a wrong one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from veriscope.subjects import Subject, WordReader, load

VOCAB = 50
WORDS = tuple(f"w{number}" for number in range(VOCAB))
RAGGED = ("w4 w2 w3", "w4 w5 w6 w7 w8 w3 w3 w4 w5", "w9 w2", "w10 w11 w12 w13 w14 w15 w16")

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_SHARED = {**_COMMON, **_NO_ENDS, "num_key_value_heads": 2}
_GEMMA = {**_SHARED, "head_dim": 16, "query_pre_attn_scalar": 8, "sliding_window": 4}


def _gpt2() -> nn.Module:
    config = hf.GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=3, n_head=4, **_NO_ENDS)
    return hf.GPT2LMHeadModel(config)


def _gemma2() -> nn.Module:
    config = hf.Gemma2Config(**_GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)
    return hf.Gemma2ForCausalLM(config)


def _neox(parallel: bool) -> nn.Module:
    config = hf.GPTNeoXConfig(**_COMMON, **_NO_ENDS, use_parallel_residual=parallel)
    return hf.GPTNeoXForCausalLM(config)


_BUILD = {
    "gpt2": _gpt2,
    "gpt2_bare": lambda: _gpt2().transformer,
    "neox": lambda: _neox(parallel=True),
    "neox_sequential": lambda: _neox(parallel=False),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_SHARED)),
    "llama_tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_SHARED, tie_word_embeddings=True)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_SHARED, sliding_window=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_SHARED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_SHARED, head_dim=16)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**_SHARED, head_dim=16)),
    "gemma2": _gemma2,
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GEMMA)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**_COMMON)),
    "bert_bare": lambda: hf.BertModel(hf.BertConfig(**_COMMON)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_COMMON, pad_token_id=1)),
}
FAMILIES = tuple(_BUILD)
CAUSAL = tuple(name for name in FAMILIES if "bert" not in name and "bare" not in name)


def build(family: str, seed: int = 0) -> nn.Module:
    """A model whose weights, biases and gains all matter: none is 0 or 1 any more."""
    torch.manual_seed(seed)
    module = _BUILD[family]()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0).add_(0.1 * torch.randn_like(weight))
    return module.eval()


@cache
def subject(family: str, seed: int = 0) -> Subject:
    return load(build(family, seed), tokenizer=WordReader(WORDS), name=family)


def save(module: nn.Module, folder: Path, **how: object) -> Path:
    """A folder as anybody would have it: config, safetensors and a fast tokenizer."""
    module.save_pretrained(folder, **how)
    fast_tokenizer().save_pretrained(folder)
    return folder


def fast_tokenizer() -> hf.PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")


class Bigrams(nn.Module):
    """A plain module: next-word logits from the last two words, with no attention mask."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.context = 16
        self.words = nn.Embedding(VOCAB, width)
        self.mix = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        now = self.words(input_ids)
        before = torch.cat([torch.zeros_like(now[:, :1]), now[:, :-1]], dim=1)
        return self.out(self.mix(torch.cat([now, before], dim=-1)).tanh())


class BagOfWords(nn.Module):
    """A plain module with one row of logits for each prompt, and a norm over positions that padding would disturb."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(VOCAB, 8)
        self.body = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(self.words(input_ids).mean(dim=1))
