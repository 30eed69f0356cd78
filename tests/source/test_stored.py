"""What is loaded is what is stored: whatever a loader would make up, or cannot place, is refused by file and tensor."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import HIDDEN, TEXTS, largest_difference, sentence_transformer
from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2Model

from toolkit.convert import export
from toolkit.errors import SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.stored import require_model_type

Tensors = dict[str, torch.Tensor]
MISSING = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


def refused(source: Path, *words: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_spec(open_checkpoint(source))
    for word in words:
        assert word in str(caught.value)
    return caught.value


def rewrite(file: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    tensors = load_file(file)
    save_file(change(tensors) or tensors, file, metadata={"format": "pt"})


def to_pickle(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_layer_1(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}


def to_shards(folder: Path, *, pickled: bool = False) -> list[Path]:
    """The encoder's weights in two files and an index, which are returned."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    files = [folder / f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    parts = without_layer_1(tensors), {name: tensors[name] for name in tensors if ".layer.1." in name}
    for file, part in zip(files, parts, strict=True):
        torch.save(part, file) if pickled else save_file(part, file, metadata={"format": "pt"})
    placed = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return [*files, index]


def vectors(checkpoint: Checkpoint) -> Any:
    return checkpoint.reference.encode(list(TEXTS))


# Random weights


def test_a_pickle_without_a_layer_is_refused(source: Path) -> None:
    file = to_pickle(source)
    torch.save(without_layer_1(torch.load(file)), file)
    refused(source, "pytorch_model.bin", MISSING, "15 more")


def test_a_layer_in_a_file_that_nobody_loads_is_missing(source: Path) -> None:
    shutil.copy(source / "model.safetensors", source / "extra.safetensors")
    rewrite(source / "model.safetensors", without_layer_1)
    refused(source, "model.safetensors", MISSING, "15 more")


def test_the_weights_of_dense_in_the_encoders_place_are_refused(source: Path) -> None:
    shutil.copy(to_pickle(source / "2_Dense"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    refused(source, str(source / "pytorch_model.bin"), "embeddings.word_embeddings.weight")


def test_an_export_without_a_layer_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    rewrite(source / "model.safetensors", without_layer_1)
    models = tmp_path / "models"
    with pytest.raises(SourceError) as caught:
        export(source, models, "tiny")
    assert caught.value.exit_code == 3
    assert not [path for path in models.rglob("*") if path.is_file()]


def test_a_missing_tensor_that_is_filled_with_zeros_is_refused(source: Path) -> None:
    name = "encoder.layer.0.output.dense.bias"
    rewrite(source / "model.safetensors", lambda tensors: {key: tensors[key] for key in tensors if key != name})
    refused(source, "model.safetensors", name)


def test_random_numbers_that_the_loader_does_not_report_are_found(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BertModel, "_keys_to_ignore_on_load_missing", {r"encoder\.layer\.1\."})
    rewrite(source / "model.safetensors", without_layer_1)
    refused(source, "model.safetensors", MISSING, "another at each load")


def test_constants_that_the_loader_does_not_report_are_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "encoder.layer.0.output.dense.bias"
    monkeypatch.setattr(BertModel, "_keys_to_ignore_on_load_missing", {name})
    rewrite(source / "model.safetensors", lambda tensors: {key: tensors[key] for key in tensors if key != name})
    refused(source, "model.safetensors", name, "no tensor holds the values")


def test_a_pooler_that_is_not_stored_does_no_harm(source: Path) -> None:
    expected = vectors(open_checkpoint(source))
    rewrite(source / "model.safetensors", lambda tensors: {k: tensors[k] for k in tensors if "pooler" not in k})
    first, second = open_checkpoint(source), open_checkpoint(source)
    assert first.digest == second.digest
    assert largest_difference(vectors(first), expected) == 0.0


# Names and types that loading changes


def test_old_names_a_prefix_and_the_head_of_another_task_are_understood(source: Path) -> None:
    expected = open_checkpoint(source)

    def rename(tensors: Tensors) -> Tensors:
        old = {
            "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
            for name, tensor in tensors.items()
        }
        return old | {
            "cls.predictions.bias": torch.zeros(7),
            "bert.embeddings.position_ids": torch.arange(64)[None],
        }

    rewrite(source / "model.safetensors", rename)
    assert open_checkpoint(source).digest == expected.digest


def test_a_checkpoint_with_tied_weights_is_served(source: Path) -> None:
    BertForMaskedLM(BertConfig.from_pretrained(source)).save_pretrained(source)
    checkpoint = open_checkpoint(source)
    assert np.array_equal(
        checkpoint.modules[0].tensors["embeddings.word_embeddings.weight"],
        load_file(source / "model.safetensors")["bert.embeddings.word_embeddings.weight"].numpy(),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("declared", [True, False])
def test_half_precision_is_what_is_stored_computed_in_float32(source: Path, dtype: torch.dtype, declared: bool) -> None:
    rewrite(source / "model.safetensors", lambda tensors: {name: tensors[name].to(dtype) for name in tensors})
    edit(source / "config.json", dtype=str(dtype).removeprefix("torch.") if declared else "float32")
    found = open_checkpoint(source).modules[0].tensors
    stored = load_file(source / "model.safetensors")
    assert set(stored) - set(found) == {"pooler.dense.weight", "pooler.dense.bias"}, "which nothing uses"
    for name, tensor in found.items():
        assert np.array_equal(tensor, stored[name].float().numpy()), name


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_give_what_one_file_gives(source: Path, pickled: bool) -> None:
    expected = open_checkpoint(source).digest
    to_shards(source, pickled=pickled)
    assert open_checkpoint(source).digest == expected


# Damaged files


@pytest.mark.parametrize("pickled", [False, True])
def test_a_truncated_shard_is_named(source: Path, pickled: bool) -> None:
    shard = to_shards(source, pickled=pickled)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(source, str(shard), "truncated")


def test_a_missing_shard_is_named(source: Path) -> None:
    shard = to_shards(source)[1]
    shard.unlink()
    refused(source, str(shard), "is missing", "index.json")


def test_a_shard_without_what_the_index_says_is_named(source: Path) -> None:
    shard = to_shards(source)[1]
    rewrite(shard, lambda tensors: {name: tensors[name] for name in tensors if name != MISSING})
    refused(source, str(shard), MISSING, "index.json")


def test_an_index_without_a_map_is_named(source: Path) -> None:
    index = to_shards(source)[-1]
    index.write_text("{}")
    refused(source, str(index), "weight_map")


def test_a_truncated_pickle_is_named(source: Path) -> None:
    file = to_pickle(source / "2_Dense")
    file.write_bytes(file.read_bytes()[:-30])
    refused(source, str(file), "truncated")


def test_a_pickle_of_something_else_is_named(source: Path) -> None:
    file = to_pickle(source)
    torch.save([torch.zeros(3)], file)
    refused(source, str(file), "list", "tensors by name")


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(source: Path) -> None:
    file = source / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90\n")
    refused(source, str(file), "git lfs pull")


# Configuration and weights


def test_more_layers_in_the_configuration_than_stored_are_refused(source: Path) -> None:
    edit(source / "config.json", num_hidden_layers=3)
    refused(source, "model.safetensors", "encoder.layer.2.", "config.json")


def test_fewer_layers_in_the_configuration_than_stored_are_refused(source: Path) -> None:
    edit(source / "config.json", num_hidden_layers=1)
    refused(source, "model.safetensors", "encoder.layer.1.", "config.json", "no place")


def test_a_size_that_is_not_the_stored_one_is_named_with_its_field(source: Path) -> None:
    edit(source / "config.json", vocab_size=777)
    refused(source, "model.safetensors", "embeddings.word_embeddings.weight", "[777, 32]", "vocab_size 777")


def test_quantized_weights_are_refused(source: Path) -> None:
    edit(source / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(source, "config.json", "quantization_config", "bitsandbytes")


@pytest.mark.parametrize("model_type", ["t5", "mt5", "nomic_bert", "gte", "jina_embeddings_v3", None])
def test_another_architecture_is_refused_before_weights_are_looked_at(source: Path, model_type: str | None) -> None:
    edit(source / "config.json", model_type=model_type)
    (source / "model.safetensors").write_bytes(b"whatever")
    with pytest.raises(UnsupportedError) as caught:
        open_checkpoint(source, model_types=("bert",))
    assert (caught.value.field, caught.value.value) == ("model_type", model_type)
    assert caught.value.file == str(source / "config.json")


def test_an_export_refuses_another_architecture_whose_weights_are_whole(source: Path, tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=900, n_embd=HIDDEN, n_layer=1, n_head=4)).save_pretrained(source)
    with pytest.raises(UnsupportedError, match=r"model_type is 'gpt2'.*bert"):
        export(source, tmp_path / "models", "gpt2")
    assert "h.0.attn.c_attn.weight" in open_checkpoint(source).modules[0].tensors


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("convbert", "convolve"), ("luke", "entities"), ("embedding_gemma2", "images"), ("qwen3_moe", "experts")],
)
def test_the_reason_is_said_where_it_is_known(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"model_type is '{model_type}'.*{reason}.*; supported: bert"):
        require_model_type({"model_type": model_type}, Path("config.json"), ("bert",))


def test_a_model_type_that_is_taken_passes() -> None:
    require_model_type({"model_type": "bert"}, Path("config.json"), ("mpnet", "bert"))


# Numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_number_that_is_not_finite_is_refused_with_its_row(source: Path, value: float, pickled: bool) -> None:
    name = "embeddings.word_embeddings.weight"
    rewrite(source / "model.safetensors", lambda tensors: tensors[name][203].__setitem__(4, value))
    file = to_pickle(source) if pickled else source / "model.safetensors"
    refused(source, str(file), name, "row 203", str(value))


def test_a_bias_and_another_modules_weight_that_are_not_finite_are_refused(source: Path) -> None:
    rewrite(source / "2_Dense" / "model.safetensors", lambda tensors: tensors["linear.bias"].__setitem__(5, np.nan))
    refused(source, str(source / "2_Dense" / "model.safetensors"), "linear.bias", "element 5")


def test_a_live_model_with_a_number_that_is_not_finite_is_refused(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    with torch.no_grad():
        model[2].linear.weight[3, 1] = torch.nan
    with pytest.raises(SourceError, match=r"live model.*linear\.weight.*row 3"):
        open_checkpoint(model)


# PEFT adapters


@pytest.fixture
def adapter(tiny_bert: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A SentenceTransformer with a LoRA adapter as sentence-transformers saves it, and what it answers."""
    from peft import LoraConfig

    torch.manual_seed(1)
    model = sentence_transformer(tiny_bert)
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["query", "value", "dense"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.eval()
    model.save(str(tmp_path / "adapter"))
    return tmp_path / "adapter", model.encode(list(TEXTS))


def test_an_adapter_is_merged_into_its_base_and_equals_the_original(
    adapter: tuple[Path, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    folder, expected = adapter
    checkpoint = open_checkpoint(folder)
    assert largest_difference(vectors(checkpoint), expected) == 0.0
    names = set(BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).state_dict())
    assert set(checkpoint.modules[0].tensors) == names
    assert export(folder, tmp_path / "models", "adapted", tokenizer_sample=0.01).report is not None


def test_an_adapter_without_peft_says_what_to_do(
    adapter: tuple[Path, Any], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(adapter[0], str(adapter[0] / "adapter_config.json"), str(tiny_bert), "pip install peft", "merge")


def test_an_adapter_alone_as_peft_saves_it_is_named_too(
    adapter: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter[0] / name, alone / name)
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(alone, str(alone / "adapter_config.json"), "pip install peft", "merge")


def test_an_adapter_whose_base_is_not_there_is_refused(adapter: tuple[Path, Any]) -> None:
    edit(adapter[0] / "adapter_config.json", base_model_name_or_path="/no/such/base")
    refused(adapter[0], "adapter_config.json", "/no/such/base", "merge")


def test_an_adapter_without_one_of_its_tensors_is_refused(adapter: tuple[Path, Any]) -> None:
    file = adapter[0] / "adapter_model.safetensors"
    rewrite(file, lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]})
    refused(adapter[0], "lora_A")


def test_a_number_of_an_adapter_that_is_not_finite_is_refused(adapter: tuple[Path, Any]) -> None:
    file = adapter[0] / "adapter_model.safetensors"
    rewrite(file, lambda tensors: {name: tensors[name].index_fill(0, torch.tensor(0), np.nan) for name in tensors})
    refused(adapter[0], str(file), "lora_A", "row 0")
