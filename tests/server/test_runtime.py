"""What a server imports of TensorFlow, and that the rest of it can still be had in the same process."""

from __future__ import annotations

import subprocess
import sys

from toolkit.server.runtime import text_libraries

SCRIPT = """
import sys
from toolkit.server.runtime import import_runtime, text_libraries
import_runtime()
import tensorflow as tf
from tensorflow.python.framework import op_def_registry
for library in text_libraries():
    tf.load_op_library(str(library))
assert op_def_registry.get("FastWordpieceTokenizeWithOffsets") is not None
assert op_def_registry.get("SentencepieceTokenizeOp") is not None
print(sorted(name for name in ("keras", "tf_keras", "tensorflow_text") if name in sys.modules))
import tensorflow_text
tokens = tensorflow_text.WhitespaceTokenizer().tokenize(["two words"])
print(tokens.to_list(), tf.keras.layers.Dense(2)(tf.ones((1, 3))).shape)
"""


def test_a_server_imports_neither_keras_nor_the_package_of_text_ops_and_leaves_both_importable() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[[b'two', b'words']] (1, 2)"]


def test_libraries_of_ops_are_found_without_an_import() -> None:
    assert {"_fast_bert_normalizer.so", "_fast_wordpiece_tokenizer.so", "_sentencepiece_tokenizer.so"} <= {
        library.name for library in text_libraries()
    }
