"""Make the peers' files of one model; runs with the interpreter that has them.

``python -m benchmarks.encoders.prepare SOURCE FOLDER SETS.json STEP``, a step being one of ``STEPS``. Files that exist
are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoders.models import LONG, pooling_mode
from benchmarks.encoders.texts import LONG_SETS, TextSet, load_sets, padded

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CALIBRATION_TEXTS = 300
REFERENCE_TEXTS = 256


def reference(source: Path, folder: Path, sets: dict[str, TextSet]) -> None:
    """float64 vectors of the first texts of each of the model's sets, by sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), device="cpu").to(torch.float64)
    for name, texts in sets.items():
        if not name.endswith("-warm-up") and (name in LONG_SETS) == (folder.name in LONG):
            vectors = model.encode(list(texts.texts[:REFERENCE_TEXTS]), batch_size=1 if name in LONG_SETS else 32)
            np.save(folder / f"reference-{name}.npy", np.asarray(vectors, np.float64))


def _encoder(source: Path, attention: str) -> Any:
    """The encoder, its pooling and normalization as one torch module of three inputs."""
    import torch
    from transformers import AutoConfig, AutoModel

    pooling = pooling_mode(source)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pooled = AutoConfig.from_pretrained(source).model_type not in ("modernbert", "qwen3")
            options = {"add_pooling_layer": False} if pooled else {}
            try:
                self.model = AutoModel.from_pretrained(source, attn_implementation=attention, **options)
            except ValueError:  # MPNet has no other than its own
                self.model = AutoModel.from_pretrained(source, attn_implementation="eager", **options)
            self.types = getattr(self.model.config, "type_vocab_size", 0) > 0

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            # where a model has no token types, the input is there all the same: all variants are given three
            given = {"token_type_ids": token_type_ids} if self.types else {}
            ids = input_ids if self.types else input_ids + 0 * token_type_ids
            hidden = self.model(input_ids=ids, attention_mask=attention_mask, **given).last_hidden_state
            return torch.nn.functional.normalize(self.pooled(hidden, attention_mask), dim=1)

        def pooled(self, hidden: Any, attention_mask: Any) -> Any:
            if pooling == "cls":
                return hidden[:, 0]
            if pooling == "lasttoken":  # what is filled up stands behind
                last = attention_mask.sum(1) - 1
                return hidden[torch.arange(hidden.shape[0]), last]
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

    return Encoder().eval()


def _example() -> tuple[Any, Any, Any]:
    import torch

    ids = torch.randint(1000, 2000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    return ids, mask, torch.zeros_like(ids)


def onnx(source: Path, folder: Path, sets: dict[str, TextSet]) -> None:
    """The exported graph, and that graph with the fusions of onnxruntime's optimizer for BERT; both also in int8."""
    import torch
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    encoder = _encoder(source, "eager")  # the form of attention that the optimizer knows
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS}
    exported, optimized = folder / "exported.onnx", folder / "bert_optimized.onnx"
    torch.onnx.export(
        encoder, _example(), str(exported), input_names=list(INPUTS), output_names=["embedding"],
        dynamic_axes={**axes, "embedding": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    config = encoder.model.config
    model = optimizer.optimize_model(
        str(exported), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    counts = model.get_fused_operator_statistics()
    fused = min(counts["Attention"], counts["BiasGelu"]) == config.num_hidden_layers
    if not fused and config.model_type == "bert":
        raise SystemExit(f"onnxruntime's optimizer did not fuse every layer: {counts}")
    model.save_model_to_file(str(optimized))  # of other families it may know a part; the faster graph is taken
    for file in (exported, optimized):
        quantize_dynamic(
            file, file.with_stem(f"{file.stem}_int8"), per_channel=True, weight_type=QuantType.QInt8,
            # onnx cannot infer the types of the optimizer's own operators
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )  # fmt: skip


def onnx_bfloat16(source: Path, folder: Path, sets: dict[str, TextSet]) -> None:
    """Whether the CPU provider multiplies bfloat16 matrices: what it says goes into a file."""
    import onnxruntime
    from onnx import TensorProto, helper

    product = helper.make_node("MatMul", ["x", "x"], ["y"])
    tensors = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [8, 8]) for name in "xy"]
    graph = helper.make_graph([product], "product", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = "runs"
    except Exception as error:  # onnxruntime's own classes have no common base
        found = str(error).strip().splitlines()[0]
    (folder / "onnx-bfloat16.txt").write_text(found)


def openvino(source: Path, folder: Path, sets: dict[str, TextSet]) -> None:
    """The model with fused attention."""
    import openvino as ov

    model = ov.convert_model(_encoder(source, "sdpa"), example_input=_example(), input=[([-1, -1], np.int64)] * 3)
    ov.save_model(model, folder / "float32.xml", compress_to_fp16=False)


def openvino_int8(source: Path, folder: Path, sets: dict[str, TextSet]) -> None:
    """The same, quantized after training by nncf on texts of the mixed set."""
    import nncf
    import openvino as ov

    model = ov.convert_model(_encoder(source, "sdpa"), example_input=_example(), input=[([-1, -1], np.int64)] * 3)
    rows = [padded([row]) for row in sets["mixed-warm-up"].ids[:CALIBRATION_TEXTS]]
    samples = [[value.astype(np.int64) for value in (ids, mask, np.zeros_like(ids))] for ids, mask in rows]
    quantized = nncf.quantize(
        model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS
    )
    ov.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


STEPS = {
    "reference": reference,
    "onnx": onnx,
    "onnx-bfloat16": onnx_bfloat16,
    "openvino": openvino,
    "openvino-int8": openvino_int8,
}


def main() -> None:
    source, folder, sets, step = sys.argv[1:5]
    done = Path(folder) / f"{step}.done"
    if not done.exists():
        STEPS[step](Path(source), Path(folder), load_sets(Path(sets)))
        done.touch()


if __name__ == "__main__":
    main()
