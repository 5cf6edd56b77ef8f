"""Folders open in any sharding, hash alike, and what is wrong with one is said with its mend. No pickle is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from veriscope.errors import BadPrompt, CannotLoad
from veriscope.subjects import WordReader, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.build("gpt2"), tmp_path_factory.mktemp("whole"))


def copy(folder: Path, to: Path, *but: str) -> Path:
    for file in folder.iterdir():
        if file.name not in but:
            (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_folder_opens_as_the_module_it_was_saved_from(folder: Path) -> None:
    module = tiny.subject("gpt2")

    opened = load(folder)

    assert opened.name == folder.name and opened.hash == module.hash == load(str(folder)).hash
    assert torch.equal(
        opened.run(tiny.RAGGED, logits="all").logits,
        module.run(tiny.RAGGED, logits="all").logits,
    )
    assert not any(weight.requires_grad for weight in opened.module.parameters())


@pytest.mark.parametrize("family", ["llama_tied", "gemma2", "bert", "bert_bare", "neox"])
def test_other_families_open_from_folders_too(family: str, tmp_path: Path) -> None:
    opened = load(tiny.save(tiny.build(family), tmp_path))

    assert opened.hash == tiny.subject(family).hash
    assert list(opened.sites) == list(tiny.subject(family).sites)


def test_the_hash_changes_with_one_weight(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.bias"][3] += 1e-3
    save_file(weights, copy(folder, tmp_path) / "model.safetensors", metadata={"format": "pt"})

    assert load(tmp_path).hash != load(folder).hash


@pytest.mark.parametrize("index", [True, False])
def test_a_sharded_folder_opens(folder: Path, tmp_path: Path, index: bool) -> None:
    tiny.save(tiny.build("gpt2"), tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    if not index:
        (tmp_path / "model.safetensors.index.json").unlink()

    assert len(shards) > 2
    assert load(tmp_path).hash == load(folder).hash


def test_half_precision_on_disk_is_opened_in_single(folder: Path, tmp_path: Path) -> None:
    weights = {name: weight.half() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, copy(folder, tmp_path) / "model.safetensors", metadata={"format": "pt"})

    single, half = load(tmp_path), load(tmp_path, dtype="bfloat16")

    assert next(single.module.parameters()).dtype == torch.float32
    assert next(half.module.parameters()).dtype == torch.bfloat16
    assert not half.refused
    with pytest.raises(CannotLoad, match=r"'float23' is not one of.*Did you mean 'float32'"):
        load(tmp_path, dtype="float23")


def test_a_cut_off_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()

    for kept, said in ((len(whole) - 100, "is cut off: its header promises"), (60, "header alone is not whole")):
        weights.write_bytes(whole[:kept])
        with pytest.raises(CannotLoad, match=rf"model.safetensors is cut off.*{said.split('cut off')[-1]}.*again"):
            load(tmp_path)
    weights.write_bytes(b"x" * 5)
    with pytest.raises(CannotLoad, match="cut off or is no safetensors"):
        load(tmp_path)
    weights.write_bytes((10).to_bytes(8, "little") + b"not json !")
    with pytest.raises(CannotLoad, match="no valid safetensors"):
        load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny.save(tiny.build("gpt2"), tmp_path, max_shard_size="20KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()

    with pytest.raises(CannotLoad, match=rf"lacks 1 of .* shards: {lost.name}"):
        load(tmp_path)


def test_missing_tensors_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, copy(folder, tmp_path) / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CannotLoad, match=r"lack 1 tensors.*h.1.mlp.c_fc.weight.*random"):
        load(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (copy(folder, tmp_path) / "config.json").write_text(json.dumps(config | {"n_embd": 16}))

    with pytest.raises(CannotLoad, match=r"do not fit its config.json"):
        load(tmp_path)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path, "model.safetensors")
    trap = tmp_path / "sprung"
    (tmp_path / "pytorch_model.bin").write_bytes(f"cposix\nsystem\n(S'touch {trap}'\ntR.".encode())

    with pytest.raises(CannotLoad, match=r"only as a pickle \(pytorch_model.bin\).*save_pretrained"):
        load(tmp_path)
    assert not trap.exists()


def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path)
    own = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Model: pass\n")

    with pytest.raises(CannotLoad, match=r"model_type 'own'.*never run here.*load\(module, tokenizer=...\)"):
        load(tmp_path)
    known = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | {"auto_map": own["auto_map"]}))
    load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_tokenizer_says_what_to_type(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path, "tokenizer.json", "tokenizer_config.json")

    with pytest.raises(CannotLoad, match=r"no tokenizer.*load\('.*', tokenizer=...\)"):
        load(tmp_path)
    assert load(tmp_path, tokenizer=WordReader(tiny.WORDS)).hash == load(folder).hash


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[]", "model_type 'None'"),
        ("model.safetensors", None, "no .safetensors file"),
        ("tokenizer.json", "{}", "tokenizer in .* can't be opened"),
    ],
)
def test_a_broken_folder_says_what_is_broken(folder: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    copy(folder, tmp_path, name)
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(CannotLoad, match=said):
        load(tmp_path)


def test_names_that_lead_nowhere(folder: Path) -> None:
    with pytest.raises(CannotLoad, match="There is no folder"):
        load("./nowhere")
    with pytest.raises(CannotLoad, match="give the folder"):
        load(folder / "config.json")
    with pytest.raises(CannotLoad, match=r"no zoo name, and could not be fetched.*give a local folder"):
        load("no-such-model")
    with pytest.raises(CannotLoad, match=r"load\(GPT2LMHeadModel, ...\) needs tokenizer="):
        load(tiny.build("gpt2"))
    with pytest.raises(CannotLoad, match=r"int is no tokenizer"):
        load(tiny.build("gpt2"), tokenizer=3)


def test_prompts_that_do_not_fit(folder: Path) -> None:
    subject = load(folder, name="small")

    with pytest.raises(BadPrompt, match="Prompt 1 is empty"):
        subject.run(["w1", "  "])
    with pytest.raises(BadPrompt, match=r"Prompt 0 'w1 w1.* takes 33 tokens, but small has a context of 32"):
        subject.run([" ".join(["w1"] * 33)])
    with pytest.raises(BadPrompt, match=r"put the text into \[ \]"):
        subject.run("w1")
    with pytest.raises(BadPrompt, match="no prompts"):
        subject.run([])
    with pytest.raises(BadPrompt, match=r"token 60 \(w60\), but .* embeds only 50: tokenizer and model"):
        load(tiny.build("gpt2"), tokenizer=WordReader([f"w{n}" for n in range(70)])).run(["w60"])
    assert subject.run([" ".join(["w1"] * 32)], logits="last").logits.shape == (1, tiny.VOCAB)


def test_a_zoo_name_opens_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bed" / "weights" / "little").mkdir(parents=True)
    copy(folder, tmp_path / "bed" / "weights" / "little")
    monkeypatch.setattr("veriscope.subjects.loading._ZOO", tmp_path)

    assert load("little").hash == load(folder).hash and load("little").name == "little"
    with pytest.raises(CannotLoad, match="Did you mean 'little'"):
        load("litle")
