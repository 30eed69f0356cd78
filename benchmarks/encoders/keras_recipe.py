"""The recipe of the time when transformers had TensorFlow models: TFAutoModel, padded, with masked mean pooling.

``python -m benchmarks.encoders.keras_recipe SOURCE SAVED_MODEL`` with an interpreter that has transformers 4 (5 has no
TensorFlow models) and tf-keras. What it writes loads without either, and is measured as an artifact is.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main() -> None:
    os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow as tf
    from transformers import TFAutoModel

    source, target = sys.argv[1:3]
    model = TFAutoModel.from_pretrained(source, from_pt=True)

    def embed(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> dict[str, Any]:
        hidden = model(
            {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}, training=False
        ).last_hidden_state
        mask = tf.cast(attention_mask, tf.float32)[:, :, None]
        mean = tf.reduce_sum(hidden * mask, 1) / tf.maximum(tf.reduce_sum(mask, 1), 1e-9)
        return {"embedding": tf.math.l2_normalize(mean, 1)}

    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [tf.TensorSpec([None, None], tf.int32, name) for name in names]
    module = tf.Module()
    module.model = model
    module.embed = tf.function(embed, input_signature=inputs)
    tf.saved_model.save(module, target, signatures={"embed_tokens": module.embed})


if __name__ == "__main__":
    main()
