"""Tokens that others do not look at, as those that fill up ColBERT's queries, have each family's own hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from family_models import CONFIGURATIONS, save_family
from multi_vector_support import multi_vector_encoder
from support import TEXTS, largest_difference

from toolkit.errors import UnsupportedError
from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.multi_vector_model import MultiVectorModel
from toolkit.source.checkpoint import open_checkpoint

REFUSED = {
    "deberta": "attend is False.*computes nothing of tokens that are not attended to",
    "deberta-v2": "attend is False.*computes nothing of tokens that are not attended to",
    "modernbert": "length is 16.*at most 7, as layers see no further",
    "mistral": "length is 16.*at most 7, as layers see no further",
    "gemma2": "length is 16.*at most .*, as layers see no further",
    "gemma3_text": "length is 16.*at most .*, as layers see no further",
}
"""Families whose originals compute something else there, or whose tiny models see fewer places."""

EACH = [
    pytest.param(name, marks=() if name in ("modernbert", "roberta") else pytest.mark.long) for name in CONFIGURATIONS
]


@pytest.mark.parametrize("model_type", EACH)
def test_queries_filled_up_with_tokens_that_none_looks_at_equal_the_originals(tmp_path: Path, model_type: str) -> None:
    encoder = save_family(tmp_path, model_type).parent / "encoder"
    token = "Ġthe" if model_type == "qwen2" else "the"
    model = multi_vector_encoder(encoder, query_expansion={"strategy": "min", "length": 16, "token": token})
    if model_type in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[model_type]):
            MultiVectorSpec.read(open_checkpoint(model))
        return
    answer = MultiVectorModel(MultiVectorSpec.read(open_checkpoint(model))).functions()["multi_vector_query"]
    found = answer(tf.constant([text.encode() for text in TEXTS]))
    theirs = model.encode_query(list(TEXTS), convert_to_numpy=True)
    assert np.diff(found["row_splits"]).tolist() == [len(row) for row in theirs]
    assert largest_difference(found["values"], np.concatenate(theirs)) < 1e-5
