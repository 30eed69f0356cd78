"""Models of embeddings without an encoder, and with a way for queries and another for documents, over gRPC and REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from marks import long
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, static_embedding

from toolkit.artifact.savedmodel import write_model
from toolkit.cli import cli
from toolkit.client import AsyncClient, Client, Split
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import SignatureError
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.server import Server, ServerOptions
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

QUERY, DOCUMENT = "embed_query", "embed_document"
SERVED = ("static", "router", pytest.param("router_alone", marks=pytest.mark.long))


@pytest.fixture(scope="module")
def originals(tiny_bert: Path) -> dict[str, SentenceTransformer]:
    static = SentenceTransformer(modules=[static_embedding(HIDDEN), Normalize()], device="cpu")
    static.prompts |= {"query": "search for this: "}
    documents = [Transformer(str(tiny_bert), max_seq_length=MAX_LENGTH), Pooling(HIDDEN)]
    ways = Router.for_query_document([static_embedding(HIDDEN)], documents)
    router = SentenceTransformer(modules=[ways, Normalize()], device="cpu").eval()
    return {"static": static, "router": router, "router_alone": router}


@pytest.fixture(scope="module")
def models(
    originals: dict[str, SentenceTransformer], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All but ``router_alone`` batch in their graphs, where there is something to batch."""
    folder = tmp_path_factory.mktemp("models")
    for name, original in originals.items():
        if name == "router_alone" and not request.config.getoption("--long"):
            continue
        spec = read_spec(open_checkpoint(original), Views(dims=(8,)))
        layout = Layout(batching=None if name == "router_alone" else Batching())
        write_model(serving_model(spec, layout), folder / name / "1")
    return folder


@pytest.fixture(scope="module", params=["alone", *long("rows")])
def server(models: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``rows``: the server batches rows itself."""
    options: dict[str, Any] = {}
    if request.param == "rows":
        file = tmp_path_factory.mktemp("batching") / "batching.config"
        file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 1000 }")
        options = {"enable_batching": True, "batching_parameters_file": file}
    with Server(ServerOptions(models_dir=models, port=0, rest_api_port=0, **options)) as running:
        yield running


def expected(model: SentenceTransformer) -> dict[str, np.ndarray]:
    texts = list(TEXTS)
    return {
        "serving_default": model.encode(texts),
        QUERY: model.encode_query(texts),
        DOCUMENT: model.encode_document(texts),
        f"{QUERY}_8": model.encode_query(texts, truncate_dim=8, normalize_embeddings=True),
    }


@pytest.mark.parametrize("name", SERVED)
def test_each_signature_answers_as_the_original(url: str, name: str, originals: dict[str, SentenceTransformer]) -> None:
    answers = expected(originals[name])
    assert largest_difference(answers[QUERY], answers[DOCUMENT]) > 0.01
    with Client(url, name, split=Split(rows=3)) as client:
        for signature, exact in answers.items():
            assert largest_difference(client.embed(TEXTS, signature=signature), exact) < 1e-5
        assert largest_difference(client.embed_query(TEXTS), answers[QUERY]) < 1e-5
        assert largest_difference(client.embed_document(TEXTS), answers[DOCUMENT]) < 1e-5
        assert client.embed([], signature=f"{QUERY}_8").shape == (0, 8)


@pytest.mark.parametrize("name", SERVED)
def test_the_async_client_and_the_command_get_the_same(
    url: str, name: str, originals: dict[str, SentenceTransformer]
) -> None:
    async def ask() -> Any:
        async with AsyncClient(url, name, split=Split(rows=2)) as client:
            return await asyncio.gather(client.embed_query(TEXTS), client.embed_document(TEXTS))

    answers = expected(originals[name])
    for found, signature in zip(asyncio.run(ask()), (QUERY, DOCUMENT), strict=True):
        assert largest_difference(found, answers[signature]) < 1e-5
        chosen = ["--url", url, "--model", name, "--signature", signature]
        result = CliRunner().invoke(cli, ["embed", *chosen, TEXTS[0], TEXTS[3]])
        assert result.exit_code == 0, result.output
        rows = [json.loads(line)["embedding"] for line in result.stdout.splitlines()]
        assert largest_difference(rows, answers[signature][[0, 3]]) < 1e-5


@pytest.mark.parametrize("name", SERVED)
def test_a_prompt_that_is_none_and_dims_above_the_models_are_named(url: str, name: str) -> None:
    with Client(url, name) as client:
        for signature in ("embed_passages", "embedding_9999", f"{QUERY}_33"):
            with pytest.raises(SignatureError, match=rf"no signature '{signature}'; it has: .*{QUERY}_8"):
                client.embed(TEXTS, signature=signature)
        assert client.embed(TEXTS[:1]).shape == (1, HIDDEN)
