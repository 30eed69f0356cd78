"""Settings on a checkpoint, as users of sentence-transformers set them, and what only a loaded model shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import save_family
from sentence_transformers import SentenceTransformer
from support import TEXTS, largest_difference, save_bert, sentence_transformer

from toolkit.errors import ArtifactError, InputError, SourceError, SourceNotice, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.settings import POOLING_MODES, SourceSettings, stamped_settings

PROMPTS = {"q": "find: ", "none": ""}


@pytest.fixture
def model(tiny_source: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_source), device="cpu", prompts=PROMPTS)


def test_settings_do_what_they_do_on_a_model_and_leave_the_callers_as_it_was(model: SentenceTransformer) -> None:
    before = model.encode(list(TEXTS))
    settings = SourceSettings(truncate_dim=7, max_seq_length=9, prompt_name="q")
    checkpoint = open_checkpoint(model, settings=settings)
    spec = read_spec(checkpoint)
    assert (spec.dim, spec.max_length, spec.prompt) == (7, 9, "find: ")
    assert (model.truncate_dim, model.max_seq_length, model.default_prompt_name) == (None, 48, None)
    assert largest_difference(model.encode(list(TEXTS)), before) == 0.0
    model.max_seq_length = 9
    expected = model.encode(list(TEXTS), prompt_name="q", truncate_dim=7)
    assert largest_difference(checkpoint.reference.encode(list(TEXTS)), expected) == 0.0
    assert checkpoint.digest != open_checkpoint(model).digest


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"max_seq_length": -1}, "max_seq_length is -1"),
        ({"pooling": "median"}, "pooling is 'median'; there are: cls, max"),
        ({"truncate_dim": 25}, "truncate_dim is 25, but the model's vectors have 24 numbers"),
        ({"prompt_name": "passage"}, "prompt_name is 'passage'; the model has: query, document, q, none"),
        ({"pooling": "cls"}, "pooling is for folders without modules.json"),
    ],
)
def test_settings_that_do_not_go_with_the_model_are_refused(
    model: SentenceTransformer, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_checkpoint(model, settings=SourceSettings(**settings))
    assert words in str(caught.value)


def test_a_length_beyond_the_positions_is_refused_as_the_checkpoints_own_would_be(model: SentenceTransformer) -> None:
    with pytest.raises(UnsupportedError, match=r"max_seq_length is 65, .* 64"):
        read_spec(open_checkpoint(model, settings=SourceSettings(max_seq_length=65)))


def test_an_empty_prompt_is_said(model: SentenceTransformer) -> None:
    with pytest.warns(SourceNotice, match="prompt 'none' is empty"):
        assert open_checkpoint(model, settings=SourceSettings(prompt_name="none")).prompt == ""


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_left_padding_with_absolute_positions_is_refused_by_name(tiny_bert: Path, pooling: str) -> None:
    model = sentence_transformer(tiny_bert, pooling=pooling)
    model.tokenizer.padding_side = "left"
    with pytest.raises(UnsupportedError) as caught:
        read_spec(open_checkpoint(model))
    error = caught.value
    assert (error.file, error.field, error.value) == ("the live model/tokenizer_config.json", "padding_side", "left")
    assert "answers depend on the batch" in str(error)


def test_left_padding_is_taken_where_positions_do_not_count_it(tmp_path: Path) -> None:
    model = SentenceTransformer(str(save_family(tmp_path, "xlm-roberta")), device="cpu")
    model.tokenizer.padding_side = "left"
    read_spec(open_checkpoint(model))


def test_a_model_that_attends_to_padding_is_refused(tiny_bert: Path) -> None:
    model = sentence_transformer(tiny_bert)
    model.tokenizer.model_input_names = ["input_ids"]
    with pytest.raises(SourceError, match="the original's own answers depend on the batch"):
        read_spec(open_checkpoint(model))


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_tokenizer_without_special_tokens_is_refused_where_an_empty_text_has_no_vector(
    tmp_path: Path, mode: str
) -> None:
    model = sentence_transformer(save_bert(tmp_path), pooling=mode)
    model.tokenizer.backend_tokenizer.post_processor = None
    if mode not in ("cls", "max", "lasttoken"):  # zeros
        assert np.count_nonzero(model.encode(["", "hello"])[0]) == 0
        read_spec(open_checkpoint(model))
        return
    with pytest.raises(UnsupportedError) as caught:
        read_spec(open_checkpoint(model))
    error = caught.value
    assert (error.file, error.field, error.value) == ("the live model/tokenizer.json", "post_processor", None)
    assert f"with {mode} pooling: an empty text has no token" in str(error)


def test_a_prompt_gives_an_empty_text_tokens(tmp_path: Path) -> None:
    model = sentence_transformer(save_bert(tmp_path), pooling="cls")
    model.tokenizer.backend_tokenizer.post_processor = None
    model.prompts["q"] = "find: "
    checkpoint = open_checkpoint(model, settings=SourceSettings(prompt_name="q"))
    read_spec(checkpoint, Views(prompts=("q",)))
    with pytest.raises(UnsupportedError, match="an empty text has no token"):
        read_spec(checkpoint)  # embed_query and embed_document have no prompt


def test_more_than_plain_text_is_refused(model: SentenceTransformer) -> None:
    model[0].query_length = 8
    with pytest.raises(UnsupportedError, match="query_length is 8"):
        open_checkpoint(model)
    model[0].query_length = None
    model[0].modality_config = {**model[0].modality_config, "message": {"method": "forward", "method_output_name": "x"}}
    with pytest.raises(UnsupportedError, match="modality_config"):
        open_checkpoint(model)


def test_a_subclass_of_a_module_is_not_taken_for_it(model: SentenceTransformer) -> None:
    own = type("Pooling", (type(model[1]),), {"__module__": "mine"})
    model[1].__class__ = own
    with pytest.raises(UnsupportedError, match=r"module 1 is 'mine.Pooling'"):
        open_checkpoint(model)


def test_settings_come_back_from_a_provenance() -> None:
    settings = SourceSettings(truncate_dim=7, prompt_name="q")
    assert stamped_settings({"source": {"settings": settings.to_json()}}) == settings
    assert stamped_settings({"source": {}}) == stamped_settings(None) == SourceSettings()
    with pytest.raises(ArtifactError, match=r"source.settings is \{'layers': 3\}"):
        stamped_settings({"source": {"settings": {"layers": 3}}})
