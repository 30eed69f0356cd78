"""Each family computes what its transformers class computes: at the length limit, alone and in mixed batches."""

from __future__ import annotations

import functools
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from family_models import CONFIGURATIONS, NAMES_OF_THEIR_OWN, save_family
from marks import long, long_but
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, sentence_transformer

from toolkit.convert import export
from toolkit.encoder.families import FAMILIES, MODEL_TYPES
from toolkit.errors import UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.settings import POOLING_MODES

PADDING_WRITTEN_OUT = ("<pad> a word behind padding", "one <pad><pad> two [PAD] three", "<s>inside</s> and </s>")


def serving(source: Path | SentenceTransformer) -> EmbedModel:
    return EmbedModel(read_spec(open_checkpoint(source)))


def embed(model: EmbedModel, texts: Any) -> Any:
    return model._serving_default(tf.constant(list(texts)))["embedding"].numpy()


Made = Callable[[str], tuple[SentenceTransformer, EmbedModel]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The original of a model type and its graph, which is traced once for all tests."""

    @functools.cache
    def make(model_type: str) -> tuple[SentenceTransformer, EmbedModel]:
        source = save_family(tmp_path_factory.mktemp(model_type), model_type)
        return SentenceTransformer(str(source), device="cpu"), serving(source)

    return make


def test_every_model_type_has_a_test_model() -> None:
    assert set(CONFIGURATIONS) == set(MODEL_TYPES)


# Whole exports take most of the suite's time. The graph of this one is unlike BERT's, which many other tests export.
EXPORTED = ("modernbert",)
EXPORTS = [
    pytest.param(name, marks=() if name in EXPORTED else pytest.mark.long)
    for name in (family.model_types[0] for family in FAMILIES)
]


@pytest.mark.parametrize("model_type", EXPORTS)
def test_an_export_of_every_family_passes_the_whole_proof(tmp_path: Path, model_type: str) -> None:
    source = save_family(tmp_path, model_type)
    result = export(source, tmp_path / "models", "m", tokenizer_sample=0.001)
    assert result.report is not None
    assert result.report.token_ids_equal
    assert result.report.max_abs <= 1e-5


# The further model types of a family are the same file with other names of tensors.
FIRST = {family.model_types[0] for family in FAMILIES}
OWN_CLASSES = [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.long)
    for name in sorted(set(MODEL_TYPES) - set(EXPORTED))
]


@pytest.mark.parametrize("model_type", OWN_CLASSES)
def test_model_types_equal_their_own_classes(made: Made, model_type: str) -> None:
    original, model = made(model_type)
    assert (type(original[0].auto_model).__name__ == "RobertaModel") == (model_type == "roberta")
    texts = [*TEXTS, *PADDING_WRITTEN_OUT]
    assert largest_difference(embed(model, texts), original.encode(texts, batch_size=3)) < 1e-5


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
LLAMA = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
DEBERTA = {"share_att_key": False, "norm_rel_ebd": "none"}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        # as DeBERTa-v2 has it: positions and types too, projections of distances alone, a convolution
        (
            "deberta-v2",
            {
                **DEBERTA,
                "norm_rel_ebd": "layer_norm",
                "position_biased_input": True,
                "type_vocab_size": 2,
                "conv_kernel_size": 3,
                "conv_act": "gelu",
            },
        ),
        ("deberta-v2", {**DEBERTA, "pos_att_type": ["p2c"], "embedding_size": 16, "conv_kernel_size": 5}),
        ("deberta-v2", {**DEBERTA, "pos_att_type": "c2p", "position_buckets": -1, "max_relative_positions": 10}),
        ("deberta-v2", {"relative_attention": False}),
        ("deberta", {"pos_att_type": ["p2c"], "type_vocab_size": 2, "position_biased_input": True}),
        ("t5", {"feed_forward_proj": "gated-silu"}),
        ("umt5", {"feed_forward_proj": "relu", "relative_attention_num_buckets": 7}),
        (
            "modernbert",
            {
                "attention_bias": True,
                "mlp_bias": True,
                "norm_bias": True,
                "layer_types": ["sliding_attention"] * 4,
                "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
            },
        ),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}),
        ("modernbert", {"rope_parameters": {"full_attention": YARN, "sliding_attention": LLAMA}}),
        ("nomic_bert", {"rope_parameters": {**YARN, "beta_fast": 8, "truncate": False}, "head_dim": 12}),
        ("gte", {"type_vocab_size": 0, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
        ("eurobert", {"rope_parameters": LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
        ("llama", {"rope_parameters": LLAMA, "attention_bias": True, "mlp_bias": True, "is_causal": False}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}}),
        ("mistral", {"sliding_window": None, "head_dim": 12}),
        ("mistral", {"sliding_window": 5, "is_causal": False}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "is_causal": False}),
        ("qwen3", {"rope_parameters": YARN, "attention_bias": True}),
        ("gemma2", {"is_causal": False, "attn_logit_softcapping": None, "attention_bias": True}),
        ("granite", {"rope_parameters": LLAMA, "attention_bias": True, "mlp_bias": True}),
        ("gemma3_text", {"use_bidirectional_attention": False, "attention_bias": True, "attn_logit_softcapping": 2.0}),
        (
            "gemma3_text",
            {
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {"full_attention": YARN, "sliding_attention": LLAMA},
                "sliding_window": 6,
            },
        ),
        ("roformer", {"rotary_value": True, "embedding_size": None}),
        ("deberta-v2", {"pos_att_type": [], "max_relative_positions": -1, "type_vocab_size": 3}),
    ],
    ids=str,
)
def test_what_a_configuration_may_choose_equals_the_original(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    source = save_family(tmp_path, model_type, **changes)
    original, model = SentenceTransformer(str(source), device="cpu"), serving(source)
    texts = [*TEXTS, "a"]
    assert largest_difference(embed(model, texts), original.encode(texts, batch_size=3)) < 1e-5
    for text in texts:
        assert largest_difference(embed(model, [text]), original.encode([text])) < 1e-5


@pytest.mark.parametrize(
    ("model_type", "precision", "cosine"),
    [
        pytest.param("mpnet", "bfloat16", 0.998, marks=pytest.mark.long),
        pytest.param("albert", "int8", 0.98, marks=pytest.mark.long),
        pytest.param("xlm-roberta-xl", "int8", 0.98, marks=pytest.mark.long),
        *(
            pytest.param(name, precision, cosine, marks=pytest.mark.long)
            for name in ("modernbert", "xlm-roberta", "qwen3")
            for precision, cosine in (("int8", 0.98), ("bfloat16", 0.998))
        ),
    ],
)
def test_families_are_exported_in_fewer_bits_and_held_to_a_cosine(
    tmp_path: Path, model_type: str, precision: str, cosine: float
) -> None:
    # with 0.3 PyTorch's own bfloat16 loses more than the bound of some vocabularies' tokens
    source = save_family(tmp_path, model_type, initializer_range=0.2)
    result = export(source, tmp_path / "models", "m", precision=precision, min_cosine=cosine, tokenizer_sample=0.001)
    assert result.report is not None
    assert 0 < result.report.max_cosine_distance <= 1 - cosine


REAL_WIDTHS: dict[str, dict[str, Any]] = {
    "modernbert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 1152, "local_attention": 128},
    "xlm-roberta": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "qwen3": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
    },
}
"""ModernBERT-base, XLM-R-base and Qwen3-0.6B, but for the number of layers, of words and of places."""


@pytest.mark.long
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
@pytest.mark.parametrize("model_type", REAL_WIDTHS)
def test_layers_as_wide_as_real_ones_meet_the_bounds_of_fewer_bits(
    tmp_path: Path, model_type: str, precision: str
) -> None:
    """Of products as large as theirs. Random weights have no outliers, which trained ones lose most by."""
    widths = {**REAL_WIDTHS[model_type], "num_hidden_layers": 4, "initializer_range": 0.02}
    source = save_family(tmp_path, model_type, **widths)
    result = export(source, tmp_path / "models", "m", precision=precision, tokenizer_sample=0.001)
    stamp = json.loads((result.path / "assets.extra" / "provenance.json").read_text())["precision"]
    assert len(stamp["products"][precision]) > 8
    assert result.report is not None
    assert 0 < result.report.max_cosine_distance <= 1 - stamp["min_cosine"]


ON_EITHER_SIDE = [
    *("roberta", "mpnet", "albert", "distilbert", "deberta-v2", "t5", "modernbert", "nomic_bert", "eurobert", "qwen3"),
    *("gemma3_text", "roformer"),
]


@pytest.mark.parametrize("model_type", long_but(ON_EITHER_SIDE, CONFIGURATIONS))
def test_token_ids_that_a_caller_pads_on_either_side_are_embedded_as_the_original_does(
    made: Made, model_type: str
) -> None:
    original, model = made(model_type)
    assert_equal_on_padded_ids(original, model)


@pytest.mark.parametrize("model_type", ["qwen3", *long("xlm-roberta")])
def test_every_pooling_of_token_ids_that_a_caller_pads_is_the_originals(tmp_path: Path, model_type: str) -> None:
    save_family(tmp_path, model_type)
    original = sentence_transformer(tmp_path / "encoder", Normalize(), pooling=list(POOLING_MODES))
    assert_equal_on_padded_ids(original, serving(original))


def assert_equal_on_padded_ids(original: SentenceTransformer, model: EmbedModel) -> None:
    import torch

    pad = int(original.tokenizer.pad_token_id)
    draw = np.random.default_rng(0)
    ids, mask = draw.integers(5, 300, (6, 12)).astype(np.int32), np.ones((6, 12), np.int32)
    for row, (left, right) in enumerate([(0, 0), (3, 0), (0, 5), (2, 2), (0, 11), (11, 0)]):
        ids[row, :left], mask[row, :left] = pad, 0
        ids[row, 12 - right :], mask[row, 12 - right :] = pad, 0
    ids[0, 4] = pad  # in the midst of a text
    with torch.no_grad():
        features = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
        expected = original(features)["sentence_embedding"].numpy()
    ours = model._embed_tokens(tf.constant(ids), tf.constant(mask), tf.zeros_like(ids))["embedding"]
    assert largest_difference(ours, expected) < 1e-5


@pytest.mark.parametrize("model_type", ["roberta", "mpnet", "deberta-v2", "t5", "modernbert"])
def test_a_mask_with_holes_is_refused_where_tokens_between_count(made: Made, model_type: str) -> None:
    _, model = made(model_type)
    mask = tf.constant([[1, 1, 1, 0], [1, 0, 1, 1]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="attention_mask must have its ones side by side"):
        model._embed_tokens(tf.fill([2, 4], 7), mask, tf.zeros([2, 4], tf.int32))


def test_a_family_without_a_table_of_positions_takes_texts_of_any_length_and_needs_a_limit(tmp_path: Path) -> None:
    original = SentenceTransformer(str(save_family(tmp_path, "deberta-v2")), device="cpu")
    original.max_seq_length = 3 * MAX_LENGTH
    assert original[0].auto_model.config.max_position_embeddings == MAX_LENGTH
    texts = ["word " * 200, "short"]
    ours = serving(original)._detailed(tf.constant(texts))
    assert ours["truncated"].numpy().tolist() == [True, False]
    assert largest_difference(ours["embedding"], original.encode(texts)) < 1e-5
    original.max_seq_length = None
    with pytest.raises(UnsupportedError, match=r"config\.json: max_seq_length is None, .*--max-seq-length"):
        serving(original)


IN_PARTS = ["modernbert", "qwen3", "deberta-v2"]
IN_PARTS_TOO = ["eurobert", "gemma2", "gemma3_text", "mistral", "bert", "mpnet", "xlm-roberta", "t5", "deberta"]


@pytest.mark.parametrize("model_type", [*IN_PARTS, *long(*IN_PARTS_TOO)])
def test_rows_that_are_computed_in_parts_equal_the_original(tmp_path: Path, model_type: str) -> None:
    from toolkit.encoder.attention import BLOCK, WHOLE

    longer = {} if model_type in NAMES_OF_THEIR_OWN else {"max_position_embeddings": 2 * WHOLE + 2}
    original = SentenceTransformer(str(save_family(tmp_path, model_type, **longer)), device="cpu")
    original.max_seq_length = WHOLE + BLOCK + 20
    texts = [" ".join(TEXTS) * 8, "word " * (WHOLE - 10), "word latency " * WHOLE, *TEXTS, "of " * (WHOLE // 2 + 40)]
    model = serving(original)
    lengths = model._detailed(tf.constant(texts))["num_tokens"].numpy()
    assert lengths.max() > WHOLE + BLOCK
    expected = original.encode(texts, batch_size=2)
    assert largest_difference(embed(model, texts), expected) < 1e-5
    for row in range(3):
        assert largest_difference(embed(model, [texts[row]])[0], expected[row]) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    "model_type",
    [
        *("modernbert", "nomic_bert", "gte", "jina_embeddings_v3", "eurobert", "roformer", "xlm-roberta", "deberta-v2"),
        *("t5", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite"),
    ],
)
def test_a_row_of_8192_tokens_equals_the_original_in_memory_that_does_not_grow_with_its_square(
    tmp_path: Path, model_type: str
) -> None:
    longer = {} if model_type in NAMES_OF_THEIR_OWN else {"max_position_embeddings": 8194}
    original = SentenceTransformer(str(save_family(tmp_path, model_type, **longer)), device="cpu")
    original.max_seq_length = 8192
    model = serving(original)
    texts = ["hello latency of models in production " * 3000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = embed(model, texts)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert model._detailed(tf.constant(texts))["truncated"].numpy().tolist() == [True]
    assert grown * 1024 < 4 * 8192 * 8192 * 4 / 2  # half of one layer's scores
    assert largest_difference(ours, original.encode(texts)) < 2e-5


@pytest.mark.parametrize("dtype", ["bfloat16", *long("float16")])
def test_gemma_scales_embeddings_by_what_the_weights_dtype_makes_of_the_root(tmp_path: Path, dtype: str) -> None:
    import torch

    SentenceTransformer(str(save_family(tmp_path, "gemma3_text")), device="cpu").to(getattr(torch, dtype)).save(
        str(tmp_path / "half")
    )
    original = SentenceTransformer(str(tmp_path / "half"), device="cpu").float()
    original.save(str(tmp_path / "single"))
    with pytest.warns(match=dtype):
        half = open_checkpoint(tmp_path / "half")
    assert half.digest != open_checkpoint(tmp_path / "single").digest, "the same numbers, and another root"
    assert float(original[0].auto_model.embed_tokens.embed_scale) == 5.65625 != np.float32(HIDDEN**0.5)
    with pytest.warns(match=dtype):
        assert largest_difference(embed(serving(tmp_path / "half"), TEXTS), original.encode(list(TEXTS))) < 1e-5
    assert largest_difference(embed(serving(original), TEXTS), original.encode(list(TEXTS))) < 1e-5


def test_a_checkpoint_in_the_form_of_its_own_code_is_taken_where_transformers_has_its_class(tmp_path: Path) -> None:
    source = save_family(tmp_path, "nomic_bert")
    original = SentenceTransformer(str(source), device="cpu")
    assert "encoder.layers.0.attn.Wqkv.weight" in load_file(source / "model.safetensors"), "names of its own, too"
    config = json.loads((source / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "x--configuration.Own", "AutoModel": "x--modeling.Own"}}
    names = {"n_embd": HIDDEN, "n_layer": 3, "n_head": 4, "n_inner": 64, "rotary_emb_base": 1000}
    (source / "config.json").write_text(json.dumps({**config, **own, **names, "activation_function": "swiglu"}))
    assert largest_difference(embed(serving(source), TEXTS), original.encode(list(TEXTS))) < 1e-5


def test_an_adapter_that_is_chosen_on_a_live_model_is_embedded_with(tmp_path: Path) -> None:
    from peft import LoraConfig

    original = SentenceTransformer(str(save_family(tmp_path, "jina_embeddings_v3")), device="cpu")
    encoder, base = original[0].auto_model, original.encode(list(TEXTS))
    for task, rank in (("retrieval_query", 2), ("text_matching", 4)):
        targets = ["word_embeddings", "q_proj", "o_proj", "fc1", "fc2"]
        encoder.add_adapter(LoraConfig(r=rank, target_modules=targets, init_lora_weights=False), task)
    encoder.set_adapter("retrieval_query")
    expected = original.encode(list(TEXTS))
    assert largest_difference(expected, base) > 0.01
    assert largest_difference(embed(serving(original), TEXTS), expected) < 1e-5
