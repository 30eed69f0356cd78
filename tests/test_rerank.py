"""The whole way of a CrossEncoder: exported, proved, served, asked over gRPC and REST."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from classifier_models import PAIRS, save_classifier
from click.testing import CliRunner
from family_models import save_transformer
from marks import long
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from serving_support import address, counted, served
from support import largest_difference
from tensorflow_serving.apis import prediction_log_pb2
from transformers import AutoModelForCausalLM

from toolkit.artifact.savedmodel import WARMUP, read_provenance
from toolkit.cli import cli
from toolkit.client import AsyncClient, Client, Ranked
from toolkit.convert import Export, export
from toolkit.errors import CheckError, ClientError, InputError, SignatureError
from toolkit.proof.check import check

QUERY = "how do embedding models search"
DOCUMENTS = [document for _, document in PAIRS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    made = CrossEncoder(str(save_classifier(tmp_path_factory.mktemp("source"))), device="cpu")
    made.prompts["web"] = "search the web for this: "
    return made


@pytest.fixture(scope="module")
def exported(model: CrossEncoder, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(model, tmp_path_factory.mktemp("models"), "m", tokenizer_sample=0.01)


@pytest.fixture(scope="module", params=["alone", *long("batched")])
def server(exported: Export, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("served")
    with served(exported.path, folder, batching=request.param == "batched") as running:
        yield running


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "m") as made:
        yield made


def test_the_proof_covers_every_signature_and_is_stamped(exported: Export) -> None:
    assert exported.report is not None
    assert {figure.stage for figure in exported.report.stages} == {
        *("1_classifier", "serving_default", "rerank", "rerank_web")
    }
    assert exported.report.max_abs < 1e-5
    provenance = read_provenance(exported.path)
    assert provenance is not None
    assert (provenance["task"], provenance["check"]["unit"]) == ("rerank", "scores")
    assert provenance["check"]["max_cosine_distance"] is None


def test_documents_are_ranked_as_by_the_original(client: Client, model: CrossEncoder) -> None:
    ranked = client.rerank(QUERY, DOCUMENTS)
    expected: Any = model.rank(QUERY, DOCUMENTS)
    assert largest_difference([item.score for item in ranked], [item["score"] for item in expected]) < 1e-5
    scores = np.asarray(model.predict([(QUERY, document) for document in DOCUMENTS]))
    assert all(abs(item.score - scores[item.index]) < 1e-5 for item in ranked)
    assert [item.document for item in ranked] == [DOCUMENTS[item.index] for item in ranked]


def test_the_async_client_ranks_the_same(url: str, client: Client) -> None:
    async def ask() -> list[Ranked]:
        async with AsyncClient(url, "m") as made:
            return await made.rerank(QUERY, DOCUMENTS, top_k=2)

    for found, expected in zip(asyncio.run(ask()), client.rerank(QUERY, DOCUMENTS, top_k=2), strict=True):
        assert (found.index, found.document) == (expected.index, expected.document)
        assert abs(found.score - expected.score) < 1e-5


def test_the_embed_command_says_that_pairs_have_no_embedding(url: str) -> None:
    result = CliRunner().invoke(cli, ["embed", "--url", url, "--model", "m", "--signature", "rerank", "a text"])
    assert isinstance(result.exception, SignatureError)
    assert "'rerank' is not text to embedding: it takes document string [?], query string" in str(result.exception)
    with (
        Client(url, "m") as made,
        pytest.raises(SignatureError, match=r"no signature 'rerank_news'; it has: .*rerank_web"),
    ):
        made.predict({"query": ["a"], "document": ["b"]}, signature="rerank_news")


def test_pairs_of_any_queries_are_scored(client: Client, model: CrossEncoder) -> None:
    queries, documents = ([pair[column] for pair in PAIRS] for column in (0, 1))
    answer = client.predict({"query": queries, "document": documents}, signature="rerank_web")["score"]
    assert largest_difference(answer, model.predict(PAIRS, prompt_name="web")) < 1e-5


def test_columns_of_different_length_are_refused_and_the_server_lives(client: Client) -> None:
    for queries, documents in ((["a"], ["b", "c"]), (["a", "b", "c"], ["d"])):
        with pytest.raises(ClientError, match=r"as many rows|same|0th|size|shape"):
            client.predict({"query": queries, "document": documents}, signature="rerank")
    assert len(client.rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)


def test_pairs_are_counted_by_signature(server: Any) -> None:
    before = counted(server, "m", "rerank_web")
    with Client(address(server, "grpc"), "m") as made:
        made.predict({"query": ["a", "b"], "document": ["c", "d"]}, signature="rerank_web")
    assert tuple(np.subtract(counted(server, "m", "rerank_web"), before)) == (1, 2)


def test_each_signature_has_warm_up_requests_of_pairs(exported: Export) -> None:
    records = tf.data.TFRecordDataset(str(exported.path / WARMUP))
    logs = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()).predict_log.request for raw in records]
    assert {log.model_spec.signature_name for log in logs} == {"rerank", "rerank_web"}
    assert all(set(log.inputs) == {"query", "document"} for log in logs)


@pytest.mark.long
def test_check_finds_another_model_and_takes_pairs_of_ones_own(exported: Export, model: CrossEncoder) -> None:
    report = check(exported.path, model, texts=["a query\ta document", "\t"])
    assert (report.passed, report.texts) == (True, 2)
    with pytest.raises(InputError, match="a query, a tab and a document"):
        check(exported.path, model, texts=["a query"])
    with torch_changed(model):
        other = check(exported.path, model, texts=["a query\ta document"])
    with pytest.raises(CheckError, match="first at 1_classifier"):
        other.require_passed()


class torch_changed:  # noqa: N801
    """The head's bias is another inside."""

    def __init__(self, model: CrossEncoder) -> None:
        self._bias: Any = model[0].auto_model.classifier.bias

    def __enter__(self) -> None:
        self._bias.data += 0.5

    def __exit__(self, *_: object) -> None:
        self._bias.data -= 0.5


def test_inspect_and_check_print_pairs_and_scores(exported: Export, model: CrossEncoder, tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "250"})
    shown = runner.invoke(cli, ["inspect", str(exported.path)]).stdout
    assert "query string [?]" in shown
    assert "score float32 [?]" in shown
    assert "prompt 'search the web for this: '" in shown
    model.save(str(tmp_path / "source"))
    lines = tmp_path / "pairs.txt"
    lines.write_text("a query\ta document\n")
    checked = runner.invoke(cli, ["check", str(exported.path), str(tmp_path / "source"), "--texts", str(lines)])
    assert checked.exit_code == 0, checked.output
    assert "scores" in checked.stdout
    assert "cosine" not in checked.stdout


@pytest.mark.long
def test_a_decoder_that_answers_yes_or_no_is_exported_proved_and_served(tmp_path: Path) -> None:
    plain = save_transformer(tmp_path / "plain", "qwen3", AutoModelForCausalLM)
    template = f"[CLS]{_role('query')}\n{_role('document')}[SEP] so?"
    decoder = Transformer(str(plain), transformer_task="text-generation", processor_kwargs={"chat_template": template})
    CrossEncoder(modules=[decoder, LogitScore(7, 9)], device="cpu").save(str(tmp_path / "source"))
    made = export(tmp_path / "source", tmp_path / "models", "m", tokenizer_sample=0.01)
    assert made.report is not None
    assert {figure.stage for figure in made.report.stages} == {"1_logit_score", "serving_default", "rerank"}
    original = CrossEncoder(str(tmp_path / "source"), device="cpu")
    with (
        served(made.path, tmp_path / "served", batching=False) as running,
        Client(f"grpc://127.0.0.1:{running.grpc_port}", "m") as client,
    ):
        ranked = client.rerank(QUERY, DOCUMENTS)
    expected: Any = original.rank(QUERY, DOCUMENTS)
    assert largest_difference([item.score for item in ranked], [item["score"] for item in expected]) < 1e-5


def _role(name: str) -> str:
    return f'{{{{ messages | selectattr("role", "eq", "{name}") | map(attribute="content") | first }}}}'


def test_a_bound_of_vectors_is_refused_for_scores(model: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="min_cosine: this model gives scores, which max_difference is for"):
        export(model, tmp_path, "m", precision="int8", min_cosine=0.9)
    assert not any(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fewer_bits_are_proved_by_the_difference_of_scores(model: CrossEncoder, tmp_path: Path, precision: str) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{query}\t{document}\n" for query, document in PAIRS if query.strip()))
    options = {"calibration": pairs} if precision == "int8" else {}
    model.save(str(tmp_path / "source"))
    made = export(
        tmp_path / "source",
        tmp_path / "models",
        "m",
        precision=precision,
        max_difference=0.2,
        tokenizer_sample=0.001,
        **options,
    )
    assert made.report is not None
    assert 1e-5 < made.report.max_abs < 0.2
    runner = CliRunner(env={"COLUMNS": "250"})
    shown = runner.invoke(cli, ["inspect", str(made.path)]).stdout
    assert f"{precision}: " in shown
    assert "largest difference of a score allowed 0.2" in shown
    checked = runner.invoke(cli, ["check", str(made.path), str(tmp_path / "source")])
    assert checked.exit_code == 0, checked.output
    assert "close enough" in checked.stdout
