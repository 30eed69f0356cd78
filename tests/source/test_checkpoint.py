"""Reading checkpoints: whatever is missing, damaged or unsupported is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as torch_save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from support import HIDDEN, TEXTS, largest_difference, save_bert, sentence_transformer
from tokenizers import Tokenizer
from torch import nn
from unigram_support import changed, make_unigram

from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.heads.dense import DenseSpec
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import PoolingSpec
from toolkit.source.checkpoint import open_checkpoint


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refused(source: Any, *words: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_spec(open_checkpoint(source))
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_a_saved_model_becomes_a_spec(source: Path) -> None:
    spec = read_spec(open_checkpoint(source))
    assert (spec.encoder.num_layers, spec.encoder.hidden_size, spec.max_length, spec.dim) == (2, HIDDEN, 48, 24)
    assert [type(head) for head in spec.modules] == [PoolingSpec, DenseSpec, NormalizeSpec]
    assert "2 layers" in str(spec)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "absent", "no such folder")
    refused(str(tmp_path / "absent"), "no such folder")


def test_an_unreachable_hub_id_is_named() -> None:
    refused("no-such-organisation/no-such-model", "no-such-organisation/no-such-model", "hub")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "not a SentenceTransformer folder")


def test_a_folder_without_modules_is_refused(source: Path) -> None:
    (source / "modules.json").unlink()
    refused(source, "modules.json", "not a SentenceTransformer folder")


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[1]", '"x"'])
def test_damaged_modules_are_refused(source: Path, text: str) -> None:
    (source / "modules.json").write_text(text)
    refused(source, "modules.json")


def test_anything_but_a_model_or_path_is_refused() -> None:
    with pytest.raises(InputError, match="expected a folder, hub id or SentenceTransformer"):
        open_checkpoint(42)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty"):
        open_checkpoint("")


@pytest.mark.parametrize(
    "kind", ["sentence_transformers.models.CNN", "sentence_transformers.models.WordEmbeddings", "os.system", "x.Dense"]
)
def test_an_unknown_module_is_refused_before_anything_is_imported(source: Path, kind: str) -> None:
    edit(source / "modules.json", lambda modules: modules[2].update(type=kind))
    error = refused(source, "modules.json", kind, "Pooling")
    assert isinstance(error, UnsupportedError)


def test_code_in_a_checkpoint_does_not_run(source: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    (source / "mine.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    edit(source / "modules.json", lambda modules: modules[2].update(type="mine.Dense"))
    refused(source, "mine.Dense")
    assert not proof.exists()


def test_a_path_out_of_the_folder_is_refused(source: Path) -> None:
    edit(source / "modules.json", lambda modules: modules[2].update(path="../elsewhere"))
    refused(source, "leads out of the folder")


@pytest.mark.parametrize("name", ["torch.sin", "builtins.eval", "torch.nn.functional.relu", "my.Tanh"])
def test_an_activation_that_would_be_replaced_silently_is_refused(source: Path, name: str) -> None:
    edit(source / "2_Dense" / "config.json", lambda config: config.update(activation_function=name))
    refused(source, "activation_function", name)


def test_an_unsupported_torch_activation_is_refused_with_the_supported_ones(source: Path) -> None:
    name = "torch.nn.modules.activation.Hardswish"
    edit(source / "2_Dense" / "config.json", lambda config: config.update(activation_function=name))
    refused(source, "Hardswish", "Tanh")


def test_an_activation_with_other_options_is_refused(tiny_bert: Path) -> None:
    model = sentence_transformer(tiny_bert, Dense(HIDDEN, 8, activation_function=nn.GELU(approximate="tanh")))
    refused(model, "activation_function", "tanh")


def test_missing_weights_are_named(source: Path) -> None:
    (source / "2_Dense" / "model.safetensors").unlink()
    refused(source, "2_Dense", "no weights")


def test_missing_module_folder_is_named(source: Path) -> None:
    shutil.rmtree(source / "2_Dense")
    refused(source, "2_Dense", "is missing")


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5])
def test_truncated_weights_are_named(source: Path, keep: float) -> None:
    file = source / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    refused(source, "model.safetensors", "truncated or damaged")


def test_a_missing_tensor_is_refused_instead_of_filled_with_random_values(source: Path) -> None:
    file = source / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(source, "encoder.layer.1.output.dense.weight")


def test_a_tensor_without_a_place_is_refused(source: Path) -> None:
    file = source / "2_Dense" / "model.safetensors"
    save_file(load_file(file) | {"extra": np.zeros(3, np.float32)}, file)
    refused(source, "extra")


def test_a_tensor_of_another_shape_is_refused(source: Path) -> None:
    file = source / "2_Dense" / "model.safetensors"
    save_file(load_file(file) | {"linear.weight": np.zeros([24, HIDDEN + 1], np.float32)}, file)
    refused(source, "size mismatch", "linear.weight")


def test_dimensions_that_do_not_meet_are_refused(tiny_bert: Path, source: Path) -> None:
    refused(sentence_transformer(tiny_bert, Dense(HIDDEN + 1, 8)), "in_features", str(HIDDEN))
    edit(source / "1_Pooling" / "config.json", lambda config: config.update(embedding_dimension=7))
    refused(source, "embedding_dimension", "7")


def test_a_pickle_is_loaded_weights_only(source: Path, tmp_path: Path) -> None:
    expected = SentenceTransformer(str(source), device="cpu").encode(list(TEXTS))
    folder = source / "2_Dense"
    tensors = {name: torch.tensor(value) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert largest_difference(open_checkpoint(source).reference.encode(list(TEXTS)), expected) == 0.0

    class Attack:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"linear.weight": Attack()}, folder / "pytorch_model.bin")
    refused(source, str(source))
    assert not (tmp_path / "ran").exists()


def test_half_precision_checkpoints_are_computed_in_float32(source: Path) -> None:
    file = source / "model.safetensors"
    save_file({k: v.astype(np.float16) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    edit(source / "config.json", lambda config: config.update(dtype="float16"))
    checkpoint = open_checkpoint(source)
    assert {p.dtype for p in checkpoint.reference.parameters()} == {torch.float32}
    assert {t.dtype for t in checkpoint.modules[0].tensors.values()} == {np.dtype(np.float32)}


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the kernel does not say what is mapped")
def test_half_precision_checkpoints_are_in_a_file_once_they_are_float32(source: Path) -> None:
    file = source / "model.safetensors"
    halves = {name: torch.tensor(value).bfloat16() for name, value in load_file(file).items()}
    torch_save_file(halves, file, metadata={"format": "pt"})
    edit(source / "config.json", lambda config: config.update(dtype="bfloat16"))
    checkpoint = open_checkpoint(source)
    places = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped("(deleted)")]
    for name, tensor in checkpoint.modules[0].tensors.items():
        assert np.array_equal(tensor, halves[name].float().numpy())
        address = tensor.__array_interface__["data"][0]
        assert any(start <= address < stop for start, stop in places), name


def mapped(word: str) -> list[str]:
    """The lines about this process's files that are mapped, of those with ``word``."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if word in line]


def test_a_live_model_in_half_precision_is_refused(tiny_source: Path) -> None:
    refused(SentenceTransformer(str(tiny_source), device="cpu").half(), "dtype", "float16", "model.float()")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"is_decoder": True}, ("is_decoder", "True")),
        ({"hidden_act": "quick_gelu"}, ("hidden_act", "quick_gelu", "gelu_new")),
    ],
)
def test_unsupported_encoder_settings_are_refused(tmp_path: Path, config: dict[str, Any], words: tuple[str]) -> None:
    refused(sentence_transformer(save_bert(tmp_path, **config)), *words)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from transformers import SqueezeBertConfig, SqueezeBertModel

    bert = save_bert(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    SqueezeBertModel(SqueezeBertConfig(vocab_size=700, embedding_size=32, **sizes)).save_pretrained(tmp_path)
    refused(sentence_transformer(bert), "model_type", "squeezebert", "bert, roberta")


def test_a_sequence_length_beyond_the_positions_is_refused(tiny_bert: Path) -> None:
    refused(sentence_transformer(tiny_bert, max_length=65), "max_seq_length", "65", "64")


def test_splitting_special_tokens_is_refused(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.split_special_tokens = True
    refused(model, "split_special_tokens")


def test_a_token_without_an_embedding_is_refused(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.add_tokens(["production"])
    refused(model, "'production'", "embeddings")


def test_padding_without_an_embedding_is_refused(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.add_special_tokens({"pad_token": "<filler>"})
    refused(model, "'<filler>'", "embeddings")


def test_a_prompt_of_a_token_without_an_embedding_is_refused(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu", prompts={"image": "<image> of: "})
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    refused(model, "'<image>'", "embeddings")


def test_a_piece_without_an_embedding_is_refused(tmp_path: Path) -> None:
    longer = changed(make_unigram(size=300), lambda root: root["model"]["vocab"].append(["zebra", -9.0]))
    tokenizer = Tokenizer.from_str(longer)
    size = tokenizer.get_vocab_size() - 1
    model = sentence_transformer(save_bert(tmp_path, tokenizer=tokenizer, vocab_size=size))
    refused(model, "'zebra'", str(size), "embeddings")


def test_prompts_are_part_of_the_digest_where_there_are_any(tiny_source: Path) -> None:
    def digest(prompts: dict[str, str]) -> str:
        return open_checkpoint(SentenceTransformer(str(tiny_source), device="cpu", prompts=prompts)).digest

    none, one, other = digest({}), digest({"q": "q: "}), digest({"q": "other: "})
    assert none == digest({"empty": ""}) != one != other != none


def test_a_hub_id_is_found_in_the_hubs_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    repository = tmp_path / "hub" / "models--organisation--tiny"
    shutil.copytree(source, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    checkpoint = open_checkpoint("organisation/tiny")
    assert checkpoint.source == "organisation/tiny"
    assert checkpoint.digest == open_checkpoint(source).digest
    refused("organisation/other", "organisation/other", "hub")


def test_a_checkpoint_with_a_vocabulary_file_only_is_read_like_transformers_reads_it(source: Path) -> None:
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    (source / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    expected = SentenceTransformer(str(source), device="cpu").preprocess(list(TEXTS))["input_ids"]
    (source / "tokenizer.json").unlink()
    checkpoint = open_checkpoint(source)
    read_spec(checkpoint)
    assert np.array_equal(checkpoint.reference.preprocess(list(TEXTS))["input_ids"], expected)
