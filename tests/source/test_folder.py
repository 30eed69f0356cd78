"""Folders of other kinds, and fields that nobody reads: refused by file, field and value before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from support import HIDDEN, TEXTS, largest_difference, save_bert, sentence_transformer
from tokenizers import PreTokenizedString
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from toolkit.errors import SourceError, SourceNotice, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.folder import inspect_folder
from toolkit.source.settings import POOLING_MODES, SourceSettings
from toolkit.source.tasks import TASKS


@pytest.fixture
def bert(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder without modules.json."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "bert"))


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    change(value)
    path.write_text(json.dumps(value))


def refused(folder: Path, file: str, field: str, value: object, *, trust: bool = False) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        inspect_folder(folder, trust)
    error = caught.value
    assert (error.file, error.field, error.value) == (str(folder / file), field, value)
    return error


def with_head(kind: Any, bert: Path, folder: Path) -> Path:
    """The encoder of ``bert`` under a head, and its tokenizer."""
    config = BertConfig.from_pretrained(bert)
    kind(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert / name, folder / name)
    return folder


def test_an_encoder_alone_is_served_as_sentence_transformers_loads_it_and_that_is_said(bert: Path) -> None:
    with pytest.warns(SourceNotice, match=r"no modules.json; served with mean pooling"):
        checkpoint = open_checkpoint(bert)
    assert read_spec(checkpoint).pooling.modes == ("mean",)
    expected = SentenceTransformer(str(bert), device="cpu").encode(list(TEXTS))
    assert largest_difference(checkpoint.reference.encode(list(TEXTS)), expected) == 0.0


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_the_pooling_of_an_encoder_alone_can_be_chosen(bert: Path, mode: str) -> None:
    with pytest.warns(SourceNotice, match=f"served with {mode} pooling"):
        checkpoint = open_checkpoint(bert, settings=SourceSettings(pooling=mode))
    assert read_spec(checkpoint).pooling.modes == (mode,)
    expected = sentence_transformer(bert, pooling=mode).encode(list(TEXTS))
    assert largest_difference(checkpoint.reference.encode(list(TEXTS)), expected) == 0.0


def test_a_head_on_an_encoder_alone_is_refused_by_name(tiny_bert: Path, tmp_path: Path) -> None:
    folder = with_head(BertForMaskedLM, tiny_bert, tmp_path / "head")
    error = refused(folder, "config.json", "architectures", "BertForMaskedLM")
    assert "encoders without a head" in str(error)


def test_a_head_that_classifies_makes_an_encoder_alone_a_reranker(tiny_bert: Path, tmp_path: Path) -> None:
    folder = with_head(BertForSequenceClassification, tiny_bert, tmp_path / "head")
    assert inspect_folder(folder, False).task.name == "rerank"
    with pytest.raises(UnsupportedError, match="architectures is 'BertForSequenceClassification'"):
        inspect_folder(folder, False, TASKS["embed"])


def test_a_language_model_alone_is_refused_by_name(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    refused(tmp_path, "config.json", "architectures", "GPT2LMHeadModel")


@pytest.mark.parametrize("name", ["BertForPreTraining", "GPT2DoubleHeadsModel", "XLMWithLMHeadModel"])
def test_other_architectures_with_a_head_are_refused(bert: Path, name: str) -> None:
    edit(bert / "config.json", lambda config: config.update(architectures=[name]))
    refused(bert, "config.json", "architectures", name)


@pytest.mark.parametrize("names", [None, [], ["BertModel"], ["Contriever"], ["T5EncoderModel"]])
def test_architectures_without_a_head_are_not_refused_for_it(bert: Path, names: list[str] | None) -> None:
    edit(bert / "config.json", lambda config: config.update(architectures=names))
    assert inspect_folder(bert, False).plain


def test_a_folder_with_neither_modules_nor_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"modules.json: is missing, config.json too; this is not a SentenceTransformer"
    ):
        inspect_folder(tmp_path, False)


@pytest.mark.parametrize("trace", ["config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling"])
def test_what_is_left_of_a_sentence_transformer_is_not_taken_for_an_encoder_alone(bert: Path, trace: str) -> None:
    if trace.endswith(".json"):
        (bert / trace).write_text("{}")
    else:
        (bert / trace).mkdir()
    with pytest.raises(SourceError, match=rf"modules.json: is missing, but {trace} is there"):
        inspect_folder(bert, False)


def test_a_router_without_its_routes_is_refused_by_its_file(source: Path) -> None:
    module = "sentence_transformers.base.modules.router.Router"
    edit(source / "modules.json", lambda items: items.__setitem__(0, {**items[0], "type": module}))
    with pytest.raises(SourceError, match=r"router_config\.json: expected types and structure"):
        inspect_folder(source, False)


def test_a_cross_encoders_folder_says_what_it_is_for(tiny_bert: Path, tmp_path: Path) -> None:
    CrossEncoder(str(tiny_bert), num_labels=1, device="cpu").save_pretrained(str(tmp_path))
    assert inspect_folder(tmp_path, False).task.name == "rerank"
    with pytest.raises(UnsupportedError, match=r"model_type is 'CrossEncoder'.*where the task is embed"):
        inspect_folder(tmp_path, False, TASKS["embed"])
    (tmp_path / "config_sentence_transformers.json").unlink()  # and were that file lost, it is refused
    refused(tmp_path, "sentence_bert_config.json", "transformer_task", "sequence-classification")


def test_a_sparse_encoders_folder_says_what_it_is_for(tiny_bert: Path, tmp_path: Path) -> None:
    head = with_head(BertForMaskedLM, tiny_bert, tmp_path / "head")
    model = SparseEncoder(modules=[MLMTransformer(str(head)), SpladePooling("max")], device="cpu")
    model.save_pretrained(str(tmp_path / "sparse"))
    folder = inspect_folder(tmp_path / "sparse", False)
    assert folder.task.name == "sparse"
    assert [module.type for module in folder.modules] == ["Transformer", "SpladePooling"]  # under its name since 5.4
    (tmp_path / "sparse" / "config_sentence_transformers.json").unlink()  # and were that file lost, it is refused
    with pytest.raises(UnsupportedError):
        inspect_folder(tmp_path / "sparse", False)


def test_a_multi_vector_encoders_folder_that_lost_its_task_is_refused_by_name(tiny_bert: Path, tmp_path: Path) -> None:
    MultiVectorEncoder(str(tiny_bert), device="cpu").save_pretrained(str(tmp_path))
    assert inspect_folder(tmp_path, False).task.name == "multi_vector"
    (tmp_path / "config_sentence_transformers.json").unlink()
    mask = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
    refused(tmp_path, "modules.json", "type", mask)


def test_a_colbert_of_stanfords_is_refused_by_name_where_its_class_does_not_say_so(bert: Path) -> None:
    (bert / "artifact.metadata").write_text("{}")
    refused(bert, "config.json", "architectures", "BertModel")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_a_class_of_the_checkpoints_own_is_refused_with_and_without_trust(
    bert: Path, source: Path, trust: bool, plain: bool
) -> None:
    own = {"AutoModel": "modeling.OwnModel"}
    folder = bert if plain else source
    edit(
        folder / "config.json", lambda config: config.update(auto_map=own | {"AutoModelForMaskedLM": "modeling.Other"})
    )
    assert "--trust-remote-code" in str(refused(folder, "config.json", "auto_map", own, trust=trust))
    edit(folder / "config.json", lambda config: config.update(auto_map={"AutoModelForMaskedLM": "modeling.Other"}))
    inspect_folder(folder, trust)


@pytest.mark.parametrize(
    ("kind", "code", "native"),
    [
        ("new", "Alibaba-NLP/new-impl--modeling.NewModel", "gte"),
        ("gte", "modeling_hf_alibaba_nlp_gte.GteModel", "gte"),
        ("xlm-roberta", "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA", "jina_embeddings_v3"),
    ],
)
def test_code_whose_layers_transformers_has_is_refused_with_the_family_that_serves_converted_models(
    source: Path, kind: str, code: str, native: str
) -> None:
    own = {"AutoModel": code}
    edit(source / "config.json", lambda config: config.update(auto_map=own, model_type=kind))
    assert f"converted to transformers' own '{native}', like " in str(refused(source, "config.json", "auto_map", own))


@pytest.mark.parametrize(("kind", "is_causal"), [("bert", False), ("qwen2", True)])
def test_code_that_transformers_class_may_be_equal_to_is_refused_with_what_to_change_then(
    source: Path, kind: str, is_causal: bool
) -> None:
    own = {"AutoModel": "modeling_own.OwnModel"}
    edit(source / "config.json", lambda config: config.update(auto_map=own, model_type=kind))
    said = str(refused(source, "config.json", "auto_map", own))
    assert f"transformers' own {kind!r}" in said
    assert "by a config.json without auto_map" in said
    assert ("is_causal false" in said) == is_causal


def test_a_class_that_transformers_took_over_under_its_name_is_let_pass(source: Path) -> None:
    own = {"AutoConfig": "configuration.Own", "AutoModel": "modeling.OwnModel"}
    edit(source / "config.json", lambda config: config.update(auto_map=own, model_type="nomic_bert"))
    inspect_folder(source, False)


def test_quantized_weights_are_refused_by_name(source: Path) -> None:
    edit(source / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq", "bits": 4}))
    refused(source, "config.json", "quantization_config", "gptq")


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "PhobertTokenizer", "RoFormerTokenizer"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_tokenizer_that_only_python_has_is_refused_by_name(bert: Path, source: Path, name: str, plain: bool) -> None:
    folder = bert if plain else source
    edit(folder / "tokenizer_config.json", lambda config: config.update(tokenizer_class=name))
    assert "fast tokenizer" in str(refused(folder, "tokenizer_config.json", "tokenizer_class", name))
    edit(folder / "tokenizer_config.json", lambda config: config.pop("tokenizer_class"))
    edit(folder / "config.json", lambda config: config.update(tokenizer_class=name))
    refused(folder, "config.json", "tokenizer_class", name)


def test_roformers_tokenizer_that_cuts_words_in_python_is_refused_where_no_file_names_it(source: Path) -> None:
    edit(source / "tokenizer_config.json", lambda config: config.pop("tokenizer_class"))
    inspect_folder(source, False)
    edit(source / "config.json", lambda config: config.update(model_type="roformer"))
    refused(source, "config.json", "tokenizer_class", "RoFormerTokenizer")


def test_a_live_tokenizer_with_a_step_in_python_is_refused_by_name(tiny_bert: Path) -> None:
    class Words:
        def pre_tokenize(self, text: PreTokenizedString) -> None:
            text.split(lambda _, part: part.split(" ", "removed"))

    model = sentence_transformer(tiny_bert)
    model.tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Words())
    with pytest.raises(UnsupportedError, match=r"tokenizer_class is 'BertTokenizer.*Custom PreTokenizer.*: fast"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    "name", ["BertTokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "NoSuchTokenizer"]
)
def test_other_tokenizer_classes_are_not_refused_for_their_name(source: Path, name: str) -> None:
    edit(source / "tokenizer_config.json", lambda config: config.update(tokenizer_class=name))
    inspect_folder(source, False)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("sentence_bert_config.json", "hidden_layer", 3),
        ("1_Pooling/config.json", "pooling_mode_median", True),
        ("1_Pooling/config.json", "pooling_mode", "median"),
        ("2_Dense/config.json", "scale", 2.0),
        ("2_Dense/config.json", "activation_function", "my.Tanh"),
        ("sentence_bert_config.json", "tokenizer_name_or_path", "/elsewhere"),
        ("sentence_bert_config.json", "transformer_task", "fill-mask"),
    ],
)
def test_fields_that_would_be_dropped_or_fail_late_are_refused(
    source: Path, file: str, field: str, value: object
) -> None:
    edit(source / file, lambda config: config.update({field: value}))
    refused(source, file, field, value)


def test_an_unknown_field_of_a_normalize_module_is_refused(source: Path) -> None:
    (source / "3_Normalize").mkdir(exist_ok=True)
    edit(source / "3_Normalize" / "config.json", lambda config: config.update(p=1))
    refused(source, "3_Normalize/config.json", "p", 1)


def test_a_configuration_that_is_no_object_is_refused_by_file(source: Path) -> None:
    (source / "1_Pooling" / "config.json").write_text("[]")
    with pytest.raises(SourceError, match=r"1_Pooling/config.json: expected a JSON object"):
        inspect_folder(source, False)


def test_a_pooling_as_earlier_releases_wrote_it_is_read(source: Path) -> None:
    old = {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(old))
    spec = read_spec(open_checkpoint(source))
    assert spec.pooling.modes == ("cls",)


def test_a_half_precision_folder_says_what_equal_means(tmp_path: Path) -> None:
    model = sentence_transformer(save_bert(tmp_path / "bert"))
    model.half().save(str(tmp_path / "half"))
    with pytest.warns(SourceNotice, match=r"the weights are float16; equal means .* float32.*6e-4"):
        checkpoint = open_checkpoint(tmp_path / "half")
    loaded = SentenceTransformer(str(tmp_path / "half"), device="cpu").encode(["hello"])
    assert 1e-5 < np.max(np.abs(checkpoint.reference.encode(["hello"]) - loaded)) < 0.1
