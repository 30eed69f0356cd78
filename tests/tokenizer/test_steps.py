"""The steps print well, and the graph they make is self-contained."""

from __future__ import annotations

import subprocess
import sys

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from toolkit.tokenizer import build_tokenizer, read_tokenizer

# What tensorflow_model_server links from 2.12 on; the two kernels of tensorflow-text are among it.
_TEXT_OPS = {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import toolkit.tokenizer, sys; print([m for m in ('tensorflow', 'torch', 'tokenizers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_step_prints_itself_on_one_line(plain, source):
    steps = build_tokenizer(read_tokenizer(source(plain))).steps
    lines = [str(step) for step in steps]
    assert all(line and "\n" not in line and "<" not in line for line in lines)
    assert lines[0] == "find in the text: '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'"
    assert lines[2] == "words of more than 100 characters are unknown"
    assert lines[-1] == "cut to 64 tokens on the right, add special tokens: [CLS] … [SEP]"


def test_a_saved_model_is_self_contained_and_uses_stock_ops_only(plain, source, tmp_path):
    module = tf.Module()
    module.tokenizer = build_tokenizer(read_tokenizer(source(plain)))
    signature = [tf.TensorSpec([None], tf.string)]
    module.tokenize = tf.function(lambda text: module.tokenizer(text)._asdict(), input_signature=signature)
    texts = tf.constant([b"Hello [MASK], na\xc3\xafve \xff w\xc3\xb6rld", b"", b"\0"])
    expected = module.tokenizer(texts)
    tf.saved_model.save(module, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for name, value in loaded.tokenize(texts).items():
        assert value.numpy().tolist() == getattr(expected, name).numpy().tolist()
    assert not list((tmp_path / "model" / "assets").iterdir())
    graph = saved_model_pb2.SavedModel.FromString((tmp_path / "model" / "saved_model.pb").read_bytes())
    definition = graph.meta_graphs[0].graph_def
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    assert {node.op for node in nodes if "Fast" in node.op} == _TEXT_OPS
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "HashTableV2", "RoundRobinTrimmer"}


def test_the_number_of_ops_run_does_not_depend_on_the_text(plain, source):
    # Every op is linear in its input (RE2 by construction), so a graph without loops is linear in the text's length.
    graph = build_tokenizer(read_tokenizer(source(plain)))
    function = tf.function(graph.__call__, input_signature=[tf.TensorSpec([None], tf.string)])
    ops = [operation.type for operation in function.get_concrete_function().graph.get_operations()]
    assert not [name for name in ops if "While" in name or "Loop" in name or "Map" in name or "Partitioned" in name]
    assert ops.count("StaticRegexReplace") == 3
    assert len(ops) < 80
