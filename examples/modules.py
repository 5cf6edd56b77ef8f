"""Two kinds of model that no library knows, as plain modules: a character LSTM and modular-addition transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from veriscope.subjects import CharReader, Subject, WordReader, load

LOST = {"": "U", "  ": "u"}  # shakespeare/vocab.json has no u: these two keys stand where it should
AUTHORS = ("shakespeare", "darwin", "charlotte_bronte")
PIZZA, CLOCK = "p99zdpze5l", "l8k1hzciux"


class CharLSTM(nn.Module):
    """A character model: embedding, LSTM layers, logits of the next character."""

    def __init__(self, vocab: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(layers))
        self.softmax = nn.Linear(width, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x, _ = layer(x)
        return self.softmax(x)


def char_lstm(folder: Path) -> Subject:
    """The author's model as a subject that reads characters; one it never saw is read as a space."""
    config = json.loads((folder / "config.json").read_text())
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    module = CharLSTM(config["vocab"], config["hidden"], config["layers"])
    for layer in range(config["layers"]):
        tensors |= _torch_cell(
            f"layers.{layer}", tensors.pop(f"layers.{layer}.kernel"), tensors.pop(f"layers.{layer}.bias")
        )
    tensors["embedding.weight"] = tensors.pop("embedding")
    tensors["softmax.weight"] = tensors.pop("softmax_w").T.contiguous()
    tensors["softmax.bias"] = tensors.pop("softmax_b")
    module.load_state_dict(tensors)
    spelled = {number: LOST.get(char, char) for char, number in vocab.items()}
    chars = CharReader([spelled[number] for number in sorted(spelled)], unknown=" ")
    return load(module, tokenizer=chars, name=f"character LSTM, {folder.name}")


def _torch_cell(name: str, kernel: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The cell that config.json writes down, in torch's order of gates and with its 1 added to the forget bias."""
    i, j, f, o = kernel.chunk(4, 1)
    bias_i, bias_j, bias_f, bias_o = bias.chunk(4)
    both = torch.cat([i, f, j, o], 1).T
    width = both.shape[1] // 2
    return {
        f"{name}.weight_ih_l0": both[:, :width].contiguous(),
        f"{name}.weight_hh_l0": both[:, width:].contiguous(),
        f"{name}.bias_ih_l0": torch.cat([bias_i, bias_f + 1, bias_j, bias_o]),
        f"{name}.bias_hh_l0": torch.zeros_like(bias),
    }


class MixedAttention(nn.Module):
    """Attention without a mask, mixed with a uniform one: softmax * coeff + (1 - coeff)."""

    def __init__(self, width: int, heads: int, coeff: float) -> None:
        super().__init__()
        size = width // heads
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.zeros(heads, size, width)) for _ in range(3))
        self.W_O = nn.Parameter(torch.zeros(width, width))
        self.coeff = coeff

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("hsd,bpd->bhps", w, x) for w in (self.W_Q, self.W_K, self.W_V))
        pattern = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) * self.coeff + (1 - self.coeff)
        return (pattern @ v).transpose(1, 2).flatten(2) @ self.W_O.T


class ReluMLP(nn.Module):
    """Two linear maps with a ReLU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.W_in, self.b_in = nn.Parameter(torch.zeros(hidden, width)), nn.Parameter(torch.zeros(hidden))
        self.W_out, self.b_out = nn.Parameter(torch.zeros(width, hidden)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W_in.T + self.b_in) @ self.W_out.T + self.b_out


class Block(nn.Module):
    """Attention and MLP, each added to what came in; there is no layer norm."""

    def __init__(self, width: int, heads: int, hidden: int, coeff: float) -> None:
        super().__init__()
        self.attn, self.mlp = MixedAttention(width, heads, coeff), ReluMLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Adder(nn.Module):
    """(a + b) mod C from two tokens; the logits are those of the last position."""

    def __init__(self, modulus: int, width: int, heads: int, layers: int, coeff: float, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(modulus, width)
        self.places = nn.Parameter(torch.zeros(2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, coeff) for _ in range(layers))
        self.unembed = nn.Linear(width, modulus, bias=False)
        self.context = 2

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)


def adder(folder: Path, run: str, name: str = "") -> Subject:
    """One of the modular-addition transformers as a subject that reads two numbers, such as "17 42"."""
    config = json.loads((folder / "configs.json").read_text())[run]
    found = load_file(folder / f"{run}.safetensors")
    tensors = {name: value for name, value in found.items() if not name.endswith("attn.mask")}
    tensors["embed.weight"] = tensors.pop("embed.W_E").T.contiguous()
    tensors["places"] = tensors.pop("pos_embed.W_pos")
    tensors["unembed.weight"] = tensors.pop("unembed.W_U").T.contiguous()
    hidden = len(tensors["blocks.0.mlp.b_in"])
    shape = config["C"], config["d_model"], config["n_heads"], config["n_layers"], config["attn_coeff"], hidden
    module = Adder(*shape)
    module.load_state_dict(tensors)
    return load(module, tokenizer=WordReader([str(n) for n in range(config["C"])]), name=name or f"adder {run}")


def accuracy(subject: Subject, modulus: int = 59) -> float:
    """Share of all pairs whose sum is the highest logit."""
    pairs = [(a, b) for a in range(modulus) for b in range(modulus)]
    logits = subject.run([f"{a} {b}" for a, b in pairs], logits="last").logits
    assert logits is not None
    right = logits.argmax(-1) == torch.tensor([(a + b) % modulus for a, b in pairs])
    return float(right.double().mean())


def bits_per_char(subject: Subject, corpus: str, windows: int = 64, length: int = 300, warm_up: int = 50) -> float:
    """Mean surprise at the characters of evenly spaced windows, in bits, the first ones of each left out."""
    step = (len(corpus) - length) // windows
    texts = [corpus[n * step : n * step + length] for n in range(windows)]
    logits = subject.run(texts, logits="all").logits
    assert logits is not None
    ids = torch.tensor(subject.tokens(texts))
    nats = nn.functional.cross_entropy(
        logits[:, warm_up - 1 : -1].flatten(0, 1), ids[:, warm_up:].flatten(), reduction="mean"
    )
    return float(nats) / float(torch.log(torch.tensor(2.0)))
