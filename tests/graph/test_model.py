"""The exported signatures answer like the original, for every supported module and awkward input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from family_models import save_family
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, save_bert, sentence_transformer
from torch import nn

from toolkit.artifact.savedmodel import write_model
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.heads.pooling import POOLING_MODES
from toolkit.proof.check import check
from toolkit.signatures import SIGNATURES
from toolkit.source.checkpoint import open_checkpoint
from toolkit.tokenizer import build_tokenizer, self_check

Signatures = dict[str, Any]


@pytest.fixture(scope="module")
def served(tiny_export: Path) -> Any:
    return tf.saved_model.load(str(tiny_export))


@pytest.fixture(scope="module")
def original(tiny_source: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_source), device="cpu")


def functions(model: SentenceTransformer) -> Any:
    """The signatures of a live model's conversion, without the way over the disk."""
    return EmbedModel(read_spec(open_checkpoint(model)))


def embed(model: SentenceTransformer, texts: Any = TEXTS) -> Any:
    return functions(model)._serving_default(tf.constant(list(texts)))["embedding"].numpy()


def test_signatures_have_the_documented_names_dtypes_and_ranks(served: Any) -> None:
    assert set(served.signatures) == {item.name for item in SIGNATURES}
    for item in SIGNATURES:
        function = served.signatures[item.name]
        inputs = function.structured_input_signature[1]
        assert {name: (spec.dtype.name, spec.shape.rank) for name, spec in inputs.items()} == {
            tensor.name: (tensor.dtype, len(tensor.shape)) for tensor in item.inputs
        }
        assert {name: (spec.dtype.name, spec.shape.rank) for name, spec in function.structured_outputs.items()} == {
            tensor.name: (tensor.dtype, len(tensor.shape)) for tensor in item.outputs
        }


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_what_is_not_a_number_stays_in_its_row(tiny_bert: Path, pooling: str) -> None:
    model = sentence_transformer(tiny_bert, pooling=pooling)
    spec = read_spec(open_checkpoint(model))
    words = spec.encoder.tensors["embeddings.word_embeddings.weight"]
    words[model.tokenizer("hello")["input_ids"][1]] = np.nan
    texts = ["hello", "short", "a longer sentence", "say hello", "another", "hello hello hello hello"]
    served = EmbedModel(spec)
    wrong = np.isnan(served._serving_default(tf.constant(texts))["embedding"].numpy()).any(1)
    assert wrong.tolist() == ["hello" in text for text in texts]
    tokens = served._token_embeddings(tf.constant(texts))["token_embeddings"].numpy()
    assert np.isnan(tokens).any((1, 2)).tolist() == wrong.tolist()


def test_embedding_dimension_is_static(served: Any) -> None:
    assert served.signatures["serving_default"].structured_outputs["embedding"].shape.as_list() == [None, 24]


def test_default_signature_equals_encode(served: Any, original: SentenceTransformer) -> None:
    ours = served.signatures["serving_default"](text=tf.constant(TEXTS))["embedding"]
    assert largest_difference(ours, original.encode(list(TEXTS))) < 1e-5


def test_detailed_counts_tokens_before_truncation(served: Any, original: SentenceTransformer) -> None:
    answer = served.signatures["detailed"](text=tf.constant(TEXTS))
    counts = [len(original.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert answer["num_tokens"].numpy().tolist() == counts
    assert answer["truncated"].numpy().tolist() == [count > MAX_LENGTH for count in counts]
    assert max(counts) > MAX_LENGTH


def test_tokenize_equals_the_original_tokenizer(served: Any, original: SentenceTransformer) -> None:
    answer = served.signatures["tokenize"](text=tf.constant(TEXTS))
    features = original.preprocess(list(TEXTS))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert np.array_equal(answer[name], features[name].numpy()), name


def test_embed_tokens_ignores_what_the_mask_leaves_out(served: Any, original: SentenceTransformer) -> None:
    tokens = {name: value.numpy() for name, value in served.signatures["tokenize"](text=tf.constant(TEXTS)).items()}
    tokens["input_ids"][tokens["attention_mask"] == 0] = 7
    ours = served.signatures["embed_tokens"](**{name: tf.constant(value) for name, value in tokens.items()})
    assert largest_difference(ours["embedding"], original.encode(list(TEXTS))) < 1e-5


def test_embed_tokens_follows_positions_types_and_holes_in_the_mask(served: Any, original: SentenceTransformer) -> None:
    random = np.random.default_rng(0)
    features = {
        "input_ids": random.integers(5, 300, (4, 12)),
        "attention_mask": np.array([[0] * 4 + [1] * 8, [1] * 12, [1, 0] * 6, [1] + [0] * 11]),
        "token_type_ids": random.integers(0, 2, (4, 12)),
    }
    ours = served.signatures["embed_tokens"](**{k: tf.constant(v, tf.int32) for k, v in features.items()})
    with torch.no_grad():
        theirs = original({name: torch.tensor(value) for name, value in features.items()})["sentence_embedding"]
    assert largest_difference(ours["embedding"], theirs) < 1e-5


@pytest.mark.parametrize(("name", "value"), [("input_ids", 1_000_000), ("input_ids", -1), ("token_type_ids", 2)])
def test_embed_tokens_refuses_ids_outside_the_vocabulary(served: Any, name: str, value: int) -> None:
    features = {key: tf.ones([1, 3], tf.int32) for key in ("input_ids", "attention_mask", "token_type_ids")}
    features[name] = tf.constant([[1, value, 1]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must be from 0 to"):
        served.signatures["embed_tokens"](**features)


@pytest.fixture(scope="module")
def imageless(tiny_source: Path) -> SentenceTransformer:
    """A model with a special token that it has no embedding for, as EmbeddingGemma has."""
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return model


def test_texts_beside_a_token_without_an_embedding_equal_the_originals(imageless: SentenceTransformer) -> None:
    texts = [*TEXTS, "<image", "image>", "< image >", "word " * 100 + "<image>"]  # the last one is cut before it
    assert largest_difference(embed(imageless, texts), imageless.encode(texts)) < 1e-5
    spec = read_spec(open_checkpoint(imageless))
    report = self_check(spec.tokenizer, build_tokenizer(spec.tokenizer), sample=0.001)
    assert dict(report.groups)["special tokens"] == 11 * len(spec.tokenizer.added_tokens)


def test_a_text_with_a_token_without_an_embedding_is_refused_and_its_neighbours_can_be_sent_again(
    imageless: SentenceTransformer,
) -> None:
    texts = ["hello world", "see <image> here", "short"]
    with pytest.raises(IndexError):
        imageless.encode(texts)
    served = EmbedModel(read_spec(open_checkpoint(imageless)), Layout(batching=Batching()))
    signatures = served.signature_functions()
    for name in ("serving_default", "detailed", "token_embeddings"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"text must contain no token that .*: <image>"):
            signatures[name](text=tf.constant(texts))
    again = signatures["serving_default"](text=tf.constant(texts[::2]))["embedding"]
    assert largest_difference(again, imageless.encode(texts[::2])) < 1e-5
    ids = signatures["tokenize"](text=tf.constant(texts))["input_ids"].numpy()
    assert imageless.tokenizer.convert_tokens_to_ids("<image>") in ids[1]
    (notice,) = served._spec.notices
    assert "texts with '<image>' are refused" in notice


def test_a_model_with_all_embeddings_is_not_asked_for_them(tiny_source: Path, imageless: SentenceTransformer) -> None:
    def asserts(model: SentenceTransformer) -> int:
        graph = functions(model)._embed.traced().graph
        return sum(node.type == "Assert" for node in graph.get_operations())

    spared = asserts(SentenceTransformer(str(tiny_source), device="cpu"))
    assert asserts(imageless) == spared + 1


def test_embed_tokens_refuses_different_shapes(served: Any) -> None:
    one, two = tf.ones([1, 3], tf.int32), tf.ones([1, 4], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="same shape"):
        served.signatures["embed_tokens"](input_ids=one, attention_mask=two, token_type_ids=one)


def test_embed_tokens_refuses_rows_longer_than_the_positions(served: Any) -> None:
    row = tf.ones([1, 65], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.signatures["embed_tokens"](input_ids=row, attention_mask=row, token_type_ids=row * 0)


def test_token_embeddings_are_the_last_hidden_state_with_zeros_at_padding(
    served: Any, original: SentenceTransformer
) -> None:
    answer = served.signatures["token_embeddings"](text=tf.constant(TEXTS))
    features = original.preprocess(list(TEXTS))
    mask = features["attention_mask"].numpy()
    with torch.no_grad():
        theirs = original[0](features)["token_embeddings"].numpy() * mask[..., None]
    assert np.array_equal(answer["attention_mask"], mask)
    assert largest_difference(answer["token_embeddings"], theirs) < 5e-5


@pytest.mark.parametrize("name", ["serving_default", "detailed", "tokenize", "token_embeddings"])
def test_an_empty_batch_gives_empty_answers(served: Any, name: str) -> None:
    for value in served.signatures[name](text=tf.constant([], tf.string)).values():
        assert value.shape[0] == 0


def test_an_empty_batch_of_tokens_gives_no_embedding(served: Any) -> None:
    for shape in ([0, 0], [0, 5]):
        none = tf.zeros(shape, tf.int32)
        answer = served.signatures["embed_tokens"](input_ids=none, attention_mask=none, token_type_ids=none)
        assert answer["embedding"].shape == (0, 24)


def test_a_row_does_not_depend_on_its_neighbours(served: Any) -> None:
    function = served.signatures["serving_default"]
    alone = np.concatenate([function(text=tf.constant([text]))["embedding"].numpy() for text in TEXTS])
    for copies in (1, 3, 40):
        many = function(text=tf.constant(list(TEXTS) * copies))["embedding"].numpy()
        assert largest_difference(many, np.tile(alone, (copies, 1))) < 2e-6


def test_a_batch_of_a_thousand_rows_keeps_its_order(served: Any) -> None:
    texts = [f"{'word ' * (number % 37)}{number}" for number in range(1000)]
    function = served.signatures["serving_default"]
    together = function(text=tf.constant(texts))["embedding"].numpy()
    for number in (0, 1, 36, 499, 999):
        assert largest_difference(together[number], function(text=tf.constant([texts[number]]))["embedding"][0]) < 2e-6


@pytest.mark.parametrize("mode", [*POOLING_MODES, ("cls", "mean"), ("max", "weightedmean", "lasttoken")], ids=str)
def test_every_pooling_mode_equals_the_original(tiny_bert: Path, mode: Any) -> None:
    model = sentence_transformer(tiny_bert, pooling=mode)
    assert largest_difference(embed(model), model.encode(list(TEXTS))) < 2e-5


@pytest.mark.parametrize(
    "modules",
    [
        [Dense(HIDDEN, 48, activation_function=nn.ReLU()), Dense(48, 12, bias=False), Normalize()],
        [Dense(HIDDEN, HIDDEN, use_residual=True)],
        [Dense(HIDDEN, 8, use_residual=True)],
        [LayerNorm(HIDDEN), Normalize()],
        [Dropout(0.5), Normalize()],
        [Normalize(), Dense(HIDDEN, 8)],
    ],
    ids=["two dense", "residual", "projected residual", "layer norm", "dropout", "normalize first"],
)
def test_modules_behind_pooling_equal_the_original(tiny_bert: Path, modules: list[Any]) -> None:
    model = sentence_transformer(tiny_bert, *modules)
    assert largest_difference(embed(model), model.encode(list(TEXTS))) < 2e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu"])
def test_hidden_activations_equal_transformers(tmp_path: Path, activation: str) -> None:
    model = sentence_transformer(save_bert(tmp_path, hidden_act=activation))
    assert largest_difference(embed(model), model.encode(list(TEXTS))) < 2e-5


def test_head_size_epsilon_and_type_vocabulary_follow_the_configuration(tmp_path: Path) -> None:
    model = sentence_transformer(save_bert(tmp_path, num_attention_heads=2, layer_norm_eps=1e-3, type_vocab_size=4))
    assert largest_difference(embed(model), model.encode(list(TEXTS))) < 2e-5


def test_the_default_prompt_is_put_before_each_text(tiny_source: Path) -> None:
    model = SentenceTransformer(
        str(tiny_source), device="cpu", prompts={"query": "query: "}, default_prompt_name="query"
    )
    ours = embed(model)
    assert largest_difference(ours, model.encode(list(TEXTS))) < 1e-5
    assert largest_difference(ours, model.encode(list(TEXTS), prompt="")) > 1e-3


def test_truncation_on_the_left_keeps_the_end(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.truncation_side = "left"
    texts = [" ".join(f"{number}" for number in range(100)), "short"]
    ours = embed(model, texts)
    assert largest_difference(ours, model.encode(texts)) < 1e-5
    assert largest_difference(ours, SentenceTransformer(str(tiny_source), device="cpu").encode(texts)) > 1e-3


@pytest.mark.parametrize("family", ["xlm-roberta", "t5"])
def test_padding_on_the_left_makes_no_difference_where_positions_do_not_count_it(tmp_path: Path, family: str) -> None:
    save_family(tmp_path, family)
    model = sentence_transformer(tmp_path / "encoder", pooling=list(POOLING_MODES))
    model.tokenizer.padding_side = "left"
    assert largest_difference(embed(model), model.encode(list(TEXTS))) < 5e-5


def test_truncate_dim_cuts_the_embedding(tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu", truncate_dim=10)
    ours = embed(model)
    assert ours.shape == (len(TEXTS), 10)
    assert largest_difference(ours, model.encode(list(TEXTS))) < 1e-5


def test_a_live_model_and_its_saved_folder_have_one_digest(tiny_source: Path) -> None:
    saved = open_checkpoint(tiny_source)
    live = open_checkpoint(SentenceTransformer(str(tiny_source), device="cpu"))
    assert saved.digest == live.digest


@pytest.mark.real_model
@pytest.mark.long
def test_the_real_minilm_is_exact(minilm: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(minilm)
    write_model(EmbedModel(read_spec(checkpoint)), tmp_path / "1")
    report = check(tmp_path / "1", checkpoint)
    report.require_passed()
    assert report.max_abs < 1e-6
