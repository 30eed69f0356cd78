"""Router: queries and documents go each their own way, in one artifact, as the original sends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, static_embedding

from toolkit.artifact.savedmodel import write_model
from toolkit.artifact.tuning import tune_artifact
from toolkit.convert import export
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint


def bert(folder: Path) -> list[Any]:
    transformer = Transformer(str(folder), max_seq_length=MAX_LENGTH)
    return [transformer, Pooling(HIDDEN)]


def routed(query: list[Any], document: list[Any], *behind: Any, **options: Any) -> SentenceTransformer:
    router = Router.for_query_document(query, document, **options)
    return SentenceTransformer(modules=[router, *behind], device="cpu")


def served(model: SentenceTransformer, views: Views = Views(), batching: Batching | None = None) -> Any:
    return serving_model(read_spec(open_checkpoint(model), views), Layout(batching=batching))


def answers(functions: Any, name: str) -> Any:
    return functions[name](text=tf.constant(list(TEXTS)))["embedding"]


@pytest.fixture(scope="module")
def asymmetric(tiny_bert: Path) -> SentenceTransformer:
    """Queries without an encoder, documents with one; documents by default."""
    model = routed([static_embedding(HIDDEN)], bert(tiny_bert), Normalize())
    return model.eval()


@pytest.mark.parametrize("batching", [None, Batching()], ids=["alone", "batched"])
def test_each_signature_goes_the_originals_way(asymmetric: SentenceTransformer, batching: Batching | None) -> None:
    functions = served(asymmetric, Views(dims=(8,)), batching).signature_functions()
    assert {"embed_query", "embed_document", "embed_query_8", "embedding_8"} <= set(functions)
    texts = list(TEXTS)
    assert largest_difference(answers(functions, "embed_query"), asymmetric.encode_query(texts)) < 1e-6
    assert largest_difference(answers(functions, "embed_document"), asymmetric.encode_document(texts)) < 1e-5
    assert largest_difference(answers(functions, "serving_default"), asymmetric.encode(texts)) < 1e-5
    cut = asymmetric.encode_query(texts, truncate_dim=8, normalize_embeddings=True)
    assert largest_difference(answers(functions, "embed_query_8"), cut) < 1e-6
    assert largest_difference(answers(functions, "embed_query"), answers(functions, "embed_document")) > 0.1


def test_an_encoder_that_two_routes_share_is_there_once(tiny_bert: Path) -> None:
    shared = bert(tiny_bert)
    model = routed(
        [*shared, Dense(HIDDEN, 12)], [*shared, Dense(HIDDEN, 12), Normalize()], default_route="query"
    ).eval()
    graph = served(model)
    assert sum(variable.name.startswith("embeddings/word") for variable in graph.variables) == 1
    assert len(graph.tokenizers()) == 1
    functions = graph.signature_functions()
    for name, theirs in (
        ("serving_default", model.encode(list(TEXTS))),
        ("embed_query", model.encode_query(list(TEXTS))),
        ("embed_document", model.encode_document(list(TEXTS))),
    ):
        assert largest_difference(answers(functions, name), theirs) < 2e-5


def queues(functions: Any) -> int:
    parts = [part for item in functions.values() for part in item.graph.as_graph_def().library.function]
    nodes = [node for part in parts for node in part.node_def if node.op == "BatchFunction"]
    return len({node.attr["shared_name"].s for node in nodes})


def test_each_route_keeps_a_queue_of_its_own_when_it_is_tuned(tiny_bert: Path, tmp_path: Path) -> None:
    shared = bert(tiny_bert)
    model = routed([*shared, Dense(HIDDEN, 12)], [*shared, Dense(HIDDEN, 12)]).eval()
    write_model(served(model, batching=Batching()), tmp_path / "1")
    tune_artifact(tmp_path / "1", threads=1)
    found = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert queues(found) == 2
    assert largest_difference(answers(found, "embed_query"), model.encode_query(list(TEXTS))) < 2e-5
    assert largest_difference(answers(found, "embed_document"), model.encode_document(list(TEXTS))) < 2e-5


def test_prompts_go_with_their_routes(tiny_bert: Path) -> None:
    model = routed([static_embedding(HIDDEN)], bert(tiny_bert)).eval()
    model.prompts |= {"query": "search: ", "other": "other: "}
    model[0].sub_modules["document"][1].include_prompt = False
    functions = served(model).signature_functions()
    texts = list(TEXTS)
    assert largest_difference(answers(functions, "embed_query"), model.encode_query(texts)) < 1e-5
    assert largest_difference(answers(functions, "embed_document"), model.encode_document(texts)) < 2e-5
    assert largest_difference(answers(functions, "embed_other"), model.encode(texts, prompt_name="other")) < 2e-5


@pytest.fixture(scope="module")
def exported(asymmetric: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("router")
    asymmetric.save(str(folder / "source"))
    return export(folder / "source", folder / "models", "m", tokenizer_sample=0.01)


def test_a_saved_folder_is_exported_and_every_signature_proved(exported: Any) -> None:
    assert exported.report.passed
    assert {"embed_query", "embed_document", "embedding"} <= {figure.stage for figure in exported.report.stages}
    assert "query       encoder     static" in str(exported.spec)


def test_the_folder_and_the_live_model_are_one_checkpoint(asymmetric: SentenceTransformer, tmp_path: Path) -> None:
    asymmetric.save(str(tmp_path))
    found = open_checkpoint(tmp_path)
    assert found.digest == open_checkpoint(asymmetric).digest
    assert found.tokenizer_file is None
    file = tmp_path / "router_config.json"
    config = json.loads(file.read_text())
    config["types"][next(iter(config["types"]))] = "sentence_transformers.models.LSTM"
    file.write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=r"router_config\.json: type is .*LSTM"):
        open_checkpoint(tmp_path)


def test_what_texts_cannot_take_is_refused_by_name(tiny_bert: Path) -> None:
    modules = bert(tiny_bert)
    none = routed(modules, modules, default_route=None, allow_empty_key=False)
    with pytest.raises(UnsupportedError, match=r"router_config\.json: default_route is None"):
        open_checkpoint(none)
    strange = SentenceTransformer(modules=[Router({"query": modules, "doc": bert(tiny_bert)})], device="cpu")
    with pytest.raises(UnsupportedError, match="structure is 'doc'"):
        open_checkpoint(strange)
    late = SentenceTransformer(modules=[*modules, Router({"query": [Normalize()], "document": [Normalize()]})])
    with pytest.raises(UnsupportedError, match="module 2 is 'Router'"):
        open_checkpoint(late)
    uneven = routed([static_embedding(8)], modules)
    with pytest.raises(UnsupportedError, match="embedding of a route is '8 numbers'"):
        read_spec(open_checkpoint(uneven))


def test_what_is_for_one_way_alone_is_refused_by_name(asymmetric: SentenceTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision 'bfloat16': it has routes"):
        export(asymmetric, tmp_path, "m", precision="bfloat16")
    with pytest.raises(InputError, match="max_seq_length is for models without routes"):
        export(asymmetric, tmp_path, "m", max_seq_length=8)
