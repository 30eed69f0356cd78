"""Adapters for tasks: one artifact has the weights of an encoder once, and a signature for each adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from family_models import save_family
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import HIDDEN, TEXTS, largest_difference

from toolkit.convert import export
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.keras_door import to_keras
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

ADAPTERS = {"retrieval_query": 2, "separation": 3, "text_matching": 4}
TARGETS = ["word_embeddings", "token_type_embeddings", "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]
PROMPTS = {"query": "", "document": "", "other": "of another kind: ", "retrieval.query": "Represent the query: "}


def with_adapters(source: Path, names: Mapping[str, int] = ADAPTERS, **options: Any) -> SentenceTransformer:
    """A live model with adapters of these ranks, none in use."""
    from peft import LoraConfig

    torch.manual_seed(1)
    model = SentenceTransformer(str(source), device="cpu")
    encoder: Any = model[0].auto_model
    for name, rank in names.items():
        config: Any = {"target_modules": TARGETS, "init_lora_weights": False, "lora_alpha": 2, **options}
        encoder.add_adapter(LoraConfig(r=rank, **config), name)
    encoder.disable_adapters()
    model.prompts = dict(PROMPTS)
    return model.eval()


def answers(functions: Mapping[str, Any], name: str) -> Any:
    return functions[name](text=tf.constant(list(TEXTS)))["embedding"]


def encoded(model: SentenceTransformer, adapter: str, prompt: str = "", **options: Any) -> Any:
    encoder: Any = model[0].auto_model
    encoder.enable_adapters()
    encoder.set_adapter(adapter)
    try:
        return model.encode(list(TEXTS), prompt=prompt, **options)
    finally:
        encoder.disable_adapters()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("jina"), "jina_embeddings_v3", num_hidden_layers=2)


@pytest.fixture(scope="module")
def model(source: Path) -> SentenceTransformer:
    return with_adapters(source)


@pytest.fixture(scope="module")
def folder(source: Path, model: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: a folder for each adapter beside the encoder's weights."""
    saved = tmp_path_factory.mktemp("saved") / "source"
    plain = SentenceTransformer(str(source), device="cpu")
    plain.prompts = dict(PROMPTS)
    plain.save(str(saved))
    encoder: Any = model[0].auto_model
    for name in ADAPTERS:
        state = encoder.get_adapter_state_dict(name)
        place = saved / name
        place.mkdir()
        tensors = {f"base_model.model.{key}": tensor.contiguous() for key, tensor in state.items()}
        save_file(tensors, str(place / "adapter_model.safetensors"))
        encoder.peft_config[name].save_pretrained(str(place))
    return saved


@pytest.fixture(scope="module")
def functions(model: SentenceTransformer) -> dict[str, Any]:
    spec = read_spec(open_checkpoint(model), Views(prompts=("other", *ADAPTERS)))
    return dict(serving_model(spec, Layout(batching=Batching())).signature_functions())


def test_each_adapter_has_a_signature_that_equals_the_original(
    functions: dict[str, Any], model: SentenceTransformer
) -> None:
    plain = model.encode(list(TEXTS))
    assert largest_difference(answers(functions, "serving_default"), plain) < 1e-5
    for name in ADAPTERS:
        exact = encoded(model, name, PROMPTS["retrieval.query"] if name == "retrieval_query" else "")
        assert largest_difference(exact, plain) > 0.01
        assert largest_difference(answers(functions, f"embed_{name}"), exact) < 1e-5


def test_prompts_without_an_adapter_keep_their_signatures(
    functions: dict[str, Any], model: SentenceTransformer
) -> None:
    names = {item.name for item in read_spec(open_checkpoint(model)).texts}
    assert "embed_retrieval.query" not in names, "it goes with the adapter of its name"
    assert names == {"serving_default", "embed_query", "embed_document", "embed_other"} | {
        f"embed_{name}" for name in ADAPTERS
    }
    exact = model.encode(list(TEXTS), prompt_name="other")
    assert largest_difference(answers(functions, "embed_other"), exact) < 1e-5


def test_the_encoders_weights_are_there_once(model: SentenceTransformer, source: Path) -> None:
    graph = serving_model(read_spec(open_checkpoint(model)))
    assert sum(variable.name.startswith("embeddings/word:") for variable in graph.variables) == 1
    assert len(graph.tokenizers()) == 1
    alone = serving_model(read_spec(open_checkpoint(source)))
    size, without = (sum(np.prod(item.shape) for item in made.variables) for made in (graph, alone))
    added = sum(sum(ADAPTERS.values()) * n for n in (700 + HIDDEN, *[2 * (3 * 2 * HIDDEN + 2 * HIDDEN + 2 * 96)]))
    assert without < size < without + 1.5 * added


def test_the_adapter_in_use_is_the_default_and_the_model_stays_as_it_is(source: Path) -> None:
    model = with_adapters(source)
    encoder: Any = model[0].auto_model
    encoder.enable_adapters()
    encoder.set_adapter("separation")
    assert open_checkpoint(model).digest != open_checkpoint(with_adapters(source)).digest
    trained = {name for name, value in encoder.named_parameters() if value.requires_grad}
    checkpoint = open_checkpoint(model)
    spec = read_spec(checkpoint, Views(prompts=("separation", "text_matching")))
    functions = serving_model(spec).signature_functions()
    exact = model.encode(list(TEXTS))
    assert largest_difference(answers(functions, "serving_default"), exact) < 1e-5
    assert largest_difference(answers(functions, "embed_separation"), exact) < 1e-5
    assert encoder.active_adapters() == ["separation"]
    assert {name for name, value in encoder.named_parameters() if value.requires_grad} == trained
    assert largest_difference(answers(functions, "embed_text_matching"), encoded(model, "text_matching")) < 1e-5


def test_a_published_folder_and_the_live_model_are_one_checkpoint(folder: Path, model: SentenceTransformer) -> None:
    found, live = open_checkpoint(folder), open_checkpoint(model)
    assert found.adapters == live.adapters == tuple(ADAPTERS)
    assert found.digest == live.digest
    assert found.digest != open_checkpoint(with_adapters(folder, {"text_matching": 1})).digest


def test_adapters_that_are_damaged_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "separation" / "adapter_model.safetensors"
    tensors = load_file(str(file))
    name = next(name for name in tensors if "q_proj.lora_A" in name)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, str(file))
    with pytest.raises(SourceError, match=r"separation.*no tensor holds the values of .*q_proj\.lora_A"):
        open_checkpoint(copy)
    file.unlink()
    with pytest.raises(SourceError, match=r"separation: no weights; expected adapter_model\.safetensors"):
        open_checkpoint(copy)


def test_more_than_the_product_of_two_matrices_is_refused_by_name(source: Path) -> None:
    model = with_adapters(source, {"one": 2, "two": 2}, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(UnsupportedError, match=r"config\.json: use_dora of the adapter 'one' is True"):
        open_checkpoint(model)


def test_numbers_of_an_adapter_that_are_not_finite_are_refused_by_name(source: Path) -> None:
    model = with_adapters(source)
    encoder: Any = model[0].auto_model
    encoder.layers[1].mlp.fc1.lora_A["separation"].weight.data[1, 2] = float("nan")
    with pytest.raises(SourceError, match=r"the adapter 'separation' of layers\.1\.mlp\.fc1 has numbers"):
        open_checkpoint(model)


def test_adapters_are_chosen_as_prompts_are(model: SentenceTransformer) -> None:
    spec = read_spec(open_checkpoint(model), Views(prompts=("separation",)))
    assert [item.name for item in spec.texts] == ["serving_default", "embed_separation"]
    assert str(spec.texts[1]) == "adapter separation, no prompt"
    assert spec.precisions == ("float32",)
    with pytest.raises(InputError, match=r"'retrieval' is none of the model's; it has: .*retrieval_query"):
        read_spec(open_checkpoint(model), Views(prompts=("retrieval",)))


def test_keras_trains_the_encoder_with_the_adapter_in_use_merged(source: Path) -> None:
    model = with_adapters(source)
    assert largest_difference(to_keras(model)(tf.constant(TEXTS)), model.encode(list(TEXTS))) < 1e-5
    encoder: Any = model[0].auto_model
    encoder.enable_adapters()
    encoder.set_adapter("separation")
    assert largest_difference(to_keras(model)(tf.constant(TEXTS)), model.encode(list(TEXTS))) < 1e-5


@pytest.mark.long
def test_the_proof_covers_every_adapter(folder: Path, tmp_path: Path) -> None:
    result = export(folder, tmp_path, "m", tokenizer_sample=0.01, dims=[8], quantize=["int8"])
    assert result.report is not None
    stages = {figure.stage for figure in result.report.stages}
    assert stages >= {f"embed_{name}" for name in ADAPTERS} | {"embed_other", "embedding"}
    assert result.report.max_abs < 1e-5
    stamped = json.loads((result.path / "assets.extra" / "provenance.json").read_text())["text_signatures"]
    assert {item["prompt"]["adapter"] for item in stamped} == {None, *ADAPTERS}
