"""The tables that people read are those that exports are dispatched by."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from toolkit.cli import cli
from toolkit.encoder.families import MODEL_TYPES
from toolkit.graph.catalogue import PUBLIC_MODELS, PublicModel, catalogue
from toolkit.heads import HEADS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_every_family_and_module_is_listed() -> None:
    found = catalogue()
    assert {name for _, types in found.families for name in types.split(", ")} == set(MODEL_TYPES)
    assert set(HEADS) <= {name for name, _ in found.modules}


def test_a_public_model_works_only_where_the_tables_take_all_of_it() -> None:
    assert PublicModel("a", "bert", "WordPiece").reason is None
    assert PublicModel("a", "squeezebert", "WordPiece").reason == "model_type squeezebert"
    assert PublicModel("a", "bert", "SentencePiece BPE").reason is None
    assert "without a fast form" in str(PublicModel("a", "bert", "MeCab").reason)
    assert PublicModel("a", "bert", "WordPiece", "a CrossEncoder").reason == "a CrossEncoder"
    assert len({model.name for model in PUBLIC_MODELS}) == len(PUBLIC_MODELS)


def test_the_document_has_the_tables_of_the_command() -> None:
    printed = CliRunner().invoke(cli, ["models", "--markdown"])
    assert printed.exit_code == 0
    assert printed.output in PAGE.read_text(encoding="utf-8"), "sentence-serving models --markdown prints what it lacks"


def test_the_command_prints_every_row_and_json() -> None:
    shown = CliRunner().invoke(cli, ["models"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    for word in ("MPNet", "Dense", "byte-level BPE", "serving_default", "BAAI/bge-m3", "converted to gte"):
        assert word in shown.output
    models = json.loads(CliRunner().invoke(cli, ["models", "--json"]).output)["models"]
    assert {model["works"] for model in models} == {True, False}
