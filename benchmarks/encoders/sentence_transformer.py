"""sentence-transformers: as shipped, from strings, or its torch model length-sorted, from token ids.

``input``: ``ids``; ``requests`` (one call of ``encode`` for each request) or ``all`` (one call for all texts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.encoders.engines import Engine, Spec, Vectors, Way, grouped
from benchmarks.encoders.texts import Ids, TextSet


def load(spec: Spec) -> Engine:
    import sentence_transformers
    import torch

    torch.set_num_threads(spec.threads)
    model = sentence_transformers.SentenceTransformer(spec.model, device="cpu")
    versions = {"sentence-transformers": sentence_transformers.__version__, "torch": str(torch.__version__)}

    def encode(batch: int) -> Mapping[str, Way]:
        def way(texts: TextSet, numbers: Sequence[int]) -> Vectors:
            chosen = [texts.texts[number] for number in numbers]
            return np.asarray(model.encode(chosen, batch_size=batch, show_progress_bar=False))

        return {"encode": way}

    def dense(ids: Ids, mask: Ids) -> Vectors:
        input_ids, attention_mask = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
        with torch.inference_mode():
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            features["token_type_ids"] = torch.zeros_like(input_ids)
            return np.asarray(model(features)["sentence_embedding"])

    match spec.options["input"]:
        case "ids":
            return Engine(grouped({"": dense}), versions)
        case "requests":
            return Engine(encode, versions)
        case _:  # all texts in one call, which sorts them by length
            return Engine(encode, versions, whole=True)
