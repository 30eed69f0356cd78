import tensorflow as tf


class M(tf.Module):
    def __init__(self, k):
        super().__init__()
        self.k = tf.constant(float(k))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def embed(self, text):
        n = tf.cast(tf.strings.length(text), tf.float32)
        return {"embedding": tf.stack([n, n * 0.5, tf.fill(tf.shape(n), self.k)], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def detailed(self, text):
        n = tf.strings.length(text)
        return {
            "embedding": self.embed(text)["embedding"],
            "num_tokens": n,
            "truncated": n > 8,
            "echo": text,
            "raw_bytes": text,
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32, name="input_ids"),
            tf.TensorSpec([None, None], tf.int32, name="attention_mask"),
        ]
    )
    def embed_tokens(self, input_ids, attention_mask):
        return {"embedding": tf.reduce_sum(tf.cast(input_ids * attention_mask, tf.float32), 1, keepdims=True)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def odd(self, x):
        return {"y": tf.math.log(x), "z": 1.0 / x}


for v in (1, 2, 3):
    m = M(v)
    tf.saved_model.save(
        m,
        f"models/echo/{v}",
        signatures={"serving_default": m.embed, "detailed": m.detailed, "embed_tokens": m.embed_tokens, "odd": m.odd},
    )
m = M(7)
tf.saved_model.save(m, "models/other/5", signatures={"serving_default": m.embed})
