"""A CrossEncoder's graph scores pairs as ``predict`` does, with every head, activation, cut and prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from classifier_models import PAIRS, save_classifier
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from support import MAX_LENGTH, largest_difference, save_bert
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from toolkit.corpus.check import check_pairs
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import eager_chunks
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.graph.tasks.rerank_model import RerankModel
from toolkit.heads.classifier import CLASSIFIERS
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.settings import SourceSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu")


def columns(pairs: Any) -> list[tf.Tensor]:
    return [tf.constant([text.encode() for text in column]) for column in zip(*pairs, strict=True)]


def logits(spec: RerankSpec, pairs: Any) -> Any:
    """What the spec's parts give, put together by hand, without a graph being traced."""
    tokenizer = RerankModel(spec)
    chunks, order = eager_chunks(tokenizer.tokens_of(*tokenizer.packed_pairs("", *columns(pairs))))
    products = Float32Products({k: tf.constant(v) for k, v in spec.encoder.parameters().items()}, spec.encoder)
    params = {name: tf.constant(value) for name, value in spec.head.tensors.items()}
    parts = [spec.head.apply(params, spec.encoder.hidden_states(products, chunk), chunk) for chunk in chunks]
    return tf.gather(tf.concat(parts, 0), np.argsort(order)).numpy()


# One family of each form; the others' heads differ from these by name alone.
FORMS = ("bert", "albert", "xlm-roberta", "electra", "roformer", "distilbert", "deberta-v2", "modernbert", "eurobert")
OF_EVERY_FORM = [
    pytest.param(name, marks=() if name in (*FORMS, "qwen3") else pytest.mark.long) for name in CLASSIFIERS
]


@pytest.mark.parametrize("model_type", OF_EVERY_FORM)
def test_the_head_of_every_family_equals_transformers(tmp_path: Path, model_type: str) -> None:
    labels = 1 + len(model_type) % 3
    original = CrossEncoder(
        str(save_classifier(tmp_path, model_type, labels)), device="cpu", activation_fn=nn.Identity()
    )
    spec = read_spec(open_checkpoint(original))
    expected = original.predict(PAIRS, batch_size=3)
    assert largest_difference(logits(spec, PAIRS), np.reshape(expected, (len(PAIRS), labels))) < 5e-5
    assert np.ptp(expected, axis=0).min() > 0.01, "pairs have scores of their own"


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("modernbert", {"classifier_pooling": "mean", "classifier_activation": "silu", "classifier_bias": True}),
        ("modernbert", {"classifier_pooling": "cls", "norm_bias": True}),
        ("eurobert", {"classifier_pooling": "mean"}),
        ("deberta-v2", {"pooler_hidden_act": "tanh"}),
        ("roformer", {"hidden_act": "relu"}),
    ],
)
def test_what_a_configuration_says_of_the_head_is_followed(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    original = CrossEncoder(str(save_classifier(tmp_path, model_type, **changes)), device="cpu")
    original.activation_fn = nn.Identity()
    spec = read_spec(open_checkpoint(original))
    assert largest_difference(logits(spec, PAIRS)[:, 0], original.predict(PAIRS)) < 5e-5


def test_every_pair_of_the_corpus_is_scored_as_by_predict(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.task == "rerank"
    spec = read_spec(checkpoint)
    pairs = check_pairs(MAX_LENGTH)
    served = RerankModel(spec, Layout(batching=Batching()))
    ours = served.scores("", *columns(pairs)).numpy()
    expected: Any = checkpoint.reference.predict(pairs)
    assert ours.shape == expected.shape == (len(pairs),)
    assert largest_difference(ours, expected) < 5e-6
    alone = [float(served.scores("", *columns([pair])).numpy()[0]) for pair in pairs[:20]]
    assert largest_difference(alone, expected[:20]) < 5e-6


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Identity(), nn.Tanh()])
@pytest.mark.parametrize("labels", [1, 3])
def test_the_activation_is_the_models(tmp_path: Path, activation: Any, labels: int) -> None:
    original = CrossEncoder(str(save_classifier(tmp_path, labels=labels)), device="cpu", activation_fn=activation)
    original.save(str(tmp_path / "saved"))
    saved = open_checkpoint(tmp_path / "saved")
    served = RerankModel(read_spec(saved))
    ours = served.scores("", *columns(PAIRS))
    assert largest_difference(ours, original.predict(PAIRS)) < 1e-5
    assert saved.digest == open_checkpoint(original).digest


def test_one_label_without_an_activation_of_its_own_has_a_sigmoid(folder: Path) -> None:
    assert read_spec(open_checkpoint(folder)).activation == "sigmoid"


def test_prompts_stand_before_queries(model: CrossEncoder) -> None:
    model.prompts = {"web": "search for this: ", "empty": ""}
    spec = read_spec(open_checkpoint(model, settings=SourceSettings(prompt_name="web")))
    assert [item.name for item in spec.signatures] == ["serving_default", "rerank", "rerank_web", "tokenize_pairs"]
    served = RerankModel(spec)
    prompted = served._pair_signature(spec.signed[0], *columns(PAIRS))["score"]
    assert largest_difference(prompted, model.predict(PAIRS, prompt_name="web")) < 1e-5
    assert largest_difference(prompted, model.predict(PAIRS)) > 1e-3
    with pytest.raises(InputError, match="'news' is none of the model's"):
        read_spec(open_checkpoint(model), Views(prompts=("news",)))


@pytest.mark.parametrize("strategy", ["only_second", "longest_first"])
def test_the_cut_is_the_modules(model: CrossEncoder, strategy: str) -> None:
    model[0].processing_kwargs = {"text": {"truncation": strategy}}
    pairs = [pair for pair in PAIRS if len(pair[0]) < 60]
    spec = read_spec(open_checkpoint(model))
    assert spec.pairs.strategy == strategy
    assert largest_difference(RerankModel(spec).scores("", *columns(pairs)), model.predict(pairs)) < 1e-5


def test_a_shorter_limit_and_the_left_side_are_followed(model: CrossEncoder) -> None:
    model.tokenizer.truncation_side = "left"
    checkpoint = open_checkpoint(model, settings=SourceSettings(max_seq_length=20))
    ours = RerankModel(read_spec(checkpoint)).scores("", *columns(PAIRS))
    assert largest_difference(ours, checkpoint.reference.predict(PAIRS)) < 1e-5
    assert largest_difference(ours, model.predict(PAIRS)) > 1e-3


def test_columns_of_different_length_are_refused(folder: Path) -> None:
    served = RerankModel(read_spec(open_checkpoint(folder))).signature_functions()["rerank"]
    words = tf.constant(["a", "b", "c"])
    assert served(query=words, document=words[:, None])["score"].shape == (3,)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"query and document must have as many rows"):
        served(query=words, document=words[:2])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"query must have the shape \[batch\]"):
        served(query=words[None], document=words)
    assert served(query=words[:0], document=words[:0])["score"].shape == (0,)


def refused(source: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_spec(open_checkpoint(source, **options))
    for part in parts:
        assert part in str(caught.value)


def test_what_is_not_computed_is_refused_by_name(model: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives scores"):
        read_spec(open_checkpoint(model), Views(dims=(8,)))
    with pytest.raises(InputError, match="truncate_dim is for models of embeddings"):
        open_checkpoint(model, settings=SourceSettings(truncate_dim=8))
    with pytest.raises(InputError, match="task 'embed'"):
        open_checkpoint(model, task="embed")
    model.activation_fn = nn.Softmax(dim=1)
    refused(model, "activation_fn", "Softmax")
    model.activation_fn = nn.LeakyReLU(0.5)
    refused(model, "activation_fn", "LeakyReLU(negative_slope=0.5)")
    model.activation_fn = nn.Identity()
    model[0].processing_kwargs = {"text": {"max_length": 9}}
    refused(model, "processing_kwargs", "truncation alone")
    refused(save_classifier(tmp_path / "all", "eurobert", classifier_pooling="all"), "classifier_pooling", "all")
    few = save_classifier(tmp_path / "few", "roberta")
    classifier = CrossEncoder(str(few), device="cpu")
    classifier.tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    refused(classifier, "type_vocab_size is 1", "at least 2")


def test_a_plain_encoder_is_no_reranker(tmp_path: Path) -> None:
    refused(save_bert(tmp_path), "architectures", "BertModel", "ForSequenceClassification", task="rerank")


def test_modules_that_do_not_go_together_are_refused_by_name(model: CrossEncoder, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "plain")
    refused(tmp_path / "plain", "architectures", "GPT2LMHeadModel", "ForSequenceClassification", task="rerank")
    CrossEncoder(modules=[model[0], LogitScore(1, 2)], device="cpu").save(str(tmp_path / "saved"))
    refused(tmp_path / "saved", "transformer_task", "sequence-classification", "supported: text-generation")


def test_a_query_is_tokenized_once_for_all_its_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = RerankModel(read_spec(open_checkpoint(folder)))
    seen: list[int] = []
    tokens = served.tokenizer.tokens
    monkeypatch.setattr(served.tokenizer, "tokens", lambda text: (seen.append(int(tf.size(text))), tokens(text))[1])
    queries = ["how long is it", "hello world", "how long is it", "how long is it"]
    served._packed_rows(*columns([(query, f"document {number}") for number, query in enumerate(queries)]))
    assert seen == [2 + 4]


def test_an_activation_that_would_be_replaced_is_refused(model: CrossEncoder, tmp_path: Path) -> None:
    model.save(str(tmp_path))
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(file.read_text().replace("torch.nn.modules.activation.Sigmoid", "mine.Squash"))
    refused(tmp_path, "config_sentence_transformers.json", "activation_fn", "mine.Squash")


def test_a_head_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    saved = save_classifier(tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "pooler" not in name}, saved / "model.safetensors")
    with pytest.raises(SourceError, match=r"no tensor 'bert.pooler.dense"):
        open_checkpoint(saved)
