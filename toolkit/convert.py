"""The recipe: checkpoint -> spec -> graph -> SavedModel -> proof -> ``<models>/<name>/<version>/``."""

from __future__ import annotations

import datetime
import gc
import platform
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit._version import __version__
from toolkit.artifact.compatibility import (
    DEFAULT_OLDEST,
    ServingReleases,
    graph_ops,
    require_release,
    runs_on,
    serving_releases,
)
from toolkit.artifact.savedmodel import (
    require_space,
    stage_version,
    write_model,
    write_provenance,
    write_ranges,
    write_warmup,
)
from toolkit.corpus.calibration import Calibration, built_in_texts, read_texts
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import MODEL_TYPES
from toolkit.encoder.layout import Layout, LayoutOptions
from toolkit.errors import InputError, MissingExtraError, SourceNotice
from toolkit.graph.source import open_source
from toolkit.graph.spec import TaskSpec
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.proof.beside import tokenizer_checked
from toolkit.proof.check import prove
from toolkit.proof.comparison import Bounds, CheckReport
from toolkit.proof.precision import Precision
from toolkit.proof.process import ArtifactProcess, artifact_process
from toolkit.proof.ranges import calibrated_ranges
from toolkit.signatures import Views
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.settings import SourceSettings
from toolkit.tokenizer import COMPILED, Engine
from toolkit.tokenizer.bare import BareTokenizer, compare_bare

if TYPE_CHECKING:
    import keras
    from sentence_transformers.base.model import BaseModel

    from toolkit.graph.model import ServingModel
    from toolkit.tokenizer.selfcheck import TokenizerReport

__all__ = ["Export", "export"]

Progress = Callable[[str, int, int], None]

_STAMPED_PACKAGES = (
    "sentence-transformers",
    "transformers",
    "tokenizers",
    "torch",
    "tensorflow",
    "tensorflow-text",
    "numpy",
)


@dataclass(frozen=True)
class Export:
    """A finished export: the version directory, what was converted, and both proofs (``None`` if skipped).

    ``notices`` are what users of the source should know; each was said as a ``SourceNotice`` warning too.
    """

    path: Path
    name: str
    version: int
    spec: TaskSpec
    report: CheckReport | None
    tokenizer_report: TokenizerReport | None
    notices: tuple[str, ...]


def export(
    source: str | Path | BaseModel | keras.Model,
    models_dir: str | Path,
    name: str,
    *,
    task: str | None = None,
    version: int | None = None,
    verify: bool = True,
    tokenizer_sample: float = 1.0,
    tokenizer_engine: Engine = COMPILED,
    bounds: Bounds | None = None,
    batching: Batching | None = Batching(),
    precision: str = "float32",
    min_cosine: float | None = None,
    max_difference: float | None = None,
    calibration: str | Path | None = None,
    target: str = "cpu",
    oldest_server: str = DEFAULT_OLDEST,
    optimize: str | None = None,
    truncate_dim: int | None = None,
    max_seq_length: int | None = None,
    prompt_name: str | None = None,
    pooling: str | None = None,
    prompts: Sequence[str] | None = None,
    dims: Sequence[int] = (),
    quantize: Sequence[str] = (),
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Convert ``source`` to ``<models_dir>/<name>/<version>/`` and prove that it equals the original.

    ``source`` is a folder, a hub id or a live model of sentence-transformers, whose class is for one task: ``task``
    names it (``"embed"``) where the folder of a plain encoder leaves it open; or a Keras model of ``to_keras`` (live or
    its ``.keras`` file), trained further or not, which is then the original. ``version`` defaults to the next free
    number.
    The proof is in two parts: the tokenizer's tables against the tokenizers package on over a million texts (every code
    point among them; ``tokenizer_sample`` takes a share of them), then the written artifact, reloaded, against the
    original. With ``verify=False`` there is none, and the provenance says so. ``tokenizer_engine`` is ``compiled`` or,
    for WordPiece, a slower tokenizer of tensorflow-text in its place, ``BertTokenizer`` or ``FastBertTokenizer``, which
    the same proof admits or refuses. ``batching`` is how requests are batched inside the graph (``None``: not at all).

    ``precision`` is that of the encoder's products: ``"float32"``, ``"bfloat16"`` or ``"int8"``. In int8 they are
    calibrated on the texts of the file ``calibration``, UTF-8 and one a line (``None``: a built-in set), and those that
    lose most are computed in bfloat16, as few as bring every vector's cosine with the original's to ``min_cosine``
    (0.995; for bfloat16, which has no choice to make, 0.9999), or a CrossEncoder's scores within ``max_difference`` of
    the original's (0.05; for bfloat16 0.02; of a score above 1 that share of it). Its ``calibration`` has pairs, with a
    tab between query and document. That choice is made with ``verify=False`` too, against
    the float32 graph. ``target`` is what the graph is laid out for, ``"cpu"`` or ``"gpu"``
    (:mod:`toolkit.encoder.target`); either runs on a CPU, where it is proved. ``oldest_server`` is the oldest release
    of TF Serving that the artifact is for; for one before 2.17 LayerNorm is not fused. ``optimize`` is ``"latency"``,
    with which the server keeps the encoder's weights once more in memory, in the order in which a short text alone is
    answered soonest (in bfloat16 all texts, on processors with AVX512 alone), for each signature that such texts come
    to, and which needs a server built with oneDNN; or ``"memory"``, without. ``None`` takes the first in float32 for a
    CPU, if the encoder has at most 500 MB of parameters, its table of words among them, and if the oldest server and
    the TensorFlow at hand have the kernel. ``bounds`` are what the proof asks for instead of the precision's own.

    ``truncate_dim``, ``max_seq_length`` (tokens) and ``prompt_name`` do what they do on a ``SentenceTransformer`` and
    in its ``encode``; ``pooling`` is for a folder that holds an encoder alone, without ``modules.json``, for which
    sentence-transformers takes ``"mean"``. The original that the proof compares with, here and in ``check``, is set so
    too. ``progress`` is called with (what is done at present, steps done, steps in all). What the user of a source
    should know is said as a ``SourceNotice`` warning.

    Each of ``prompts`` (``None``: all of the model's, unless all are empty) gets a signature ``embed_<name>``, which
    puts that prompt before each text; ``query`` and ``document`` are those of ``encode_query`` and ``encode_document``.
    Each of ``dims`` cuts vectors to so many numbers, normalized again where the model normalizes, and each of
    ``quantize`` (``"int8"``, ``"uint8"``, ``"binary"``, ``"ubinary"``) gives them as ``quantize_embeddings`` does; that
    makes signatures ``embedding_<dim>``, ``embed_<name>_<dim>_<kind>`` and so on, for all these together. The ranges of
    int8 and uint8 are calibrated on the file ``calibration`` too, and kept beside the model.

    Raises ``InputError`` for options that are not usable or do not go together (a model or precision whose ops the
    oldest server does not have among them), ``SourceError`` or ``UnsupportedError``
    for the source, ``ArtifactError`` for the target, ``CheckError`` if the artifact differs from the original: then
    nothing is left in ``models_dir``.
    """
    if tokenizer_engine != COMPILED and not verify:
        raise InputError(f"tokenizer engine {tokenizer_engine!r} is only taken where it is proved equal: not unchecked")
    say = progress or (lambda stage, done, total: None)
    views = Views(None if prompts is None else tuple(prompts), tuple(dims), tuple(quantize))
    ranged = not {"int8", "uint8"}.isdisjoint(views.quantized)
    wanted = Precision(precision, min_cosine, max_difference, None if ranged and precision != "int8" else calibration)
    settings = SourceSettings(truncate_dim, max_seq_length, prompt_name, pooling)
    asked = LayoutOptions(
        runs=lambda op: runs_on(op, oldest_server),
        target=target,
        optimize=optimize,
        precision=wanted.name,
        batching=batching,
        tokenizer_engine=tokenizer_engine,
    )
    if wanted.name == "int8":
        require_release(serving_releases(["_QuantizedMatMul"]), oldest_server)
    texts = read_texts(calibration) if calibration is not None else None
    # Names and places are refused, as the options were, before minutes are spent on loading. The process that will load
    # the artifact imports tensorflow meanwhile.
    with stage_version(Path(models_dir), name, version) as staged, ExitStack() as stack:
        process = stack.enter_context(artifact_process()) if verify else None
        say("reading the checkpoint", 0, 0)
        checkpoint = open_source(
            source,
            task=task,
            revision=revision,
            trust_remote_code=trust_remote_code,
            settings=settings,
            model_types=MODEL_TYPES,
        )
        spec = read_spec(checkpoint, views)
        if wanted.name not in spec.precisions:
            supported = ", ".join(spec.precisions)
            raise InputError(f"precision {wanted.name!r}: {spec.float32_alone}; supported: {supported}")
        wanted.require_fit(scores=spec.scores)
        bare = compare_bare(checkpoint.tokenizer_file, checkpoint.tokenizer) if checkpoint.tokenizer_file else None
        said = (*([str(bare)] if bare is not None and bare.differences else []), *spec.notices)
        for notice in said:
            warnings.warn(notice, SourceNotice, stacklevel=2)
        require_space(staged.folder, _size_estimate(checkpoint))
        options: dict[str, Any] = {}  # of the model's own class
        ranges: dict[str, Any] = {}
        if ranged and isinstance(spec, EmbedSpec):
            say("calibrating ranges", 0, 0)
            texts = texts or built_in_texts(spec.max_length)
            ranges = options["ranges"] = calibrated_ranges(checkpoint, spec.texts, texts.texts)
        say("building the graph", 0, 0)
        layout = asked.layout(spec.encoder)
        model, stamp = _build(spec, layout, wanted, texts, say, options)
        tokenizer = None
        if process is not None:  # from here on, beside all the rest
            tokenizer = stack.enter_context(
                tokenizer_checked(
                    model.tokenizers(),
                    sample=tokenizer_sample,
                    progress=lambda done, total: say("checking the tokenizer", done, total),
                    on_failure=process.stop,
                )
            )
        say("writing", 0, 0)
        write_model(model, staged.folder)
        releases = serving_releases(graph_ops(staged.folder))
        require_release(releases, oldest_server)
        write_ranges(staged.folder, ranges)
        write_warmup(staged.folder, name, spec.warmup(batching))
        provenance = _provenance(checkpoint, spec, model, stamp, releases, bare)
        provenance["layout"] = layout.to_json()
        provenance["ranges"] = texts.to_json() if ranged and texts is not None else None
        write_provenance(staged.folder, provenance)
        del model
        gc.collect()  # its variables, as large as the model: the process that proves has them from here on
        report = tokenizer_report = None
        if process is not None and tokenizer is not None:
            report, tokenizer_report = _proved(staged.folder, checkpoint, process, tokenizer, bounds, say)
            proofs = {"check": report.to_json(), "tokenizer_check": {"texts": tokenizer_report.texts, "differences": 0}}
            write_provenance(staged.folder, {**provenance, **proofs})
    notices = (*checkpoint.notices, *said)
    return Export(staged.target, name, staged.version, spec, report, tokenizer_report, notices)


def _build(
    spec: TaskSpec,
    layout: Layout,
    wanted: Precision,
    texts: Calibration | None,
    say: Progress,
    options: dict[str, Any],
) -> tuple[ServingModel, dict[str, Any]]:
    """The model in the precision that is wanted, and what the provenance says of it. ``options`` are its class's."""
    try:
        from toolkit.graph.precision_choice import all_bfloat16, choose_int8
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "tensorflow", "convert") from error
    stamp = wanted.stamp(scores=spec.scores)
    plan = None
    if wanted.name == "bfloat16":
        plan = all_bfloat16(spec.encoder)
    elif wanted.name == "int8":
        calibration, allowed = texts or spec.calibration(), wanted.loss(scores=spec.scores)
        tried = replace(layout, batching=None)
        choice = choose_int8(serving_model(spec, tried, **options), spec, calibration, spec.check_rows(), allowed, say)
        gc.collect()  # the variables of the model that the choice was made with
        plan = choice.plan
        stamp["calibration"] = calibration.to_json()
        stamp["losses"] = choice.losses
    if plan is not None:
        stamp["products"] = plan.by_precision(spec.encoder.product_names())
    return serving_model(spec, replace(layout, plan=plan), **options), stamp


def _proved(
    folder: Path,
    checkpoint: Checkpoint,
    process: ArtifactProcess,
    tokenizer: Future[TokenizerReport],
    bounds: Bounds | None,
    say: Progress,
) -> tuple[CheckReport, TokenizerReport]:
    """The artifact's part of the proof, and what the tokenizer's has found. Raises ``CheckError`` where it differs."""

    def moved(done: int, total: int) -> None:
        if tokenizer.done():  # one is shown at a time
            say("checking", done, total)

    report = prove(folder, checkpoint, process, bounds=bounds, progress=moved)
    report.require_passed()
    return report, tokenizer.result()


def _size_estimate(checkpoint: Checkpoint) -> int:
    """Bytes of the finished artifact: the weights, and a generous allowance for graph and tokenizer tables."""
    every = [module for way in (checkpoint, *checkpoint.ways.values()) for module in way.modules]
    arrays = {id(array): array.nbytes for module in every for array in module.tensors.values()}
    return sum(arrays.values()) + 64_000_000


def _provenance(
    checkpoint: Checkpoint,
    spec: TaskSpec,
    model: ServingModel,
    stamp: dict[str, Any],
    releases: ServingReleases,
    bare: BareTokenizer | None,
) -> dict[str, Any]:
    encoder = spec.encoder
    return {
        "format": 1,
        "task": spec.task,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": {
            "name": checkpoint.source,
            "digest": checkpoint.digest,
            "settings": checkpoint.settings.to_json(),
            "notices": list(checkpoint.notices),
        },
        "versions": {
            "sentence-serving": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _STAMPED_PACKAGES},
        },
        "model": {
            "family": encoder.family,
            "layers": encoder.num_layers,
            "hidden_size": encoder.hidden_size,
            "heads": list(spec.stages),
            "dimension": spec.dim,
            "max_sequence_length": spec.max_length,
            "prompt": spec.prompt,
            "precision": stamp["name"],
        },
        "tokenizer_engine": model.tokenizer.engine,
        "precision": stamp,
        "tokenizer": [str(step) for step in model.tokenizer.steps],
        "signatures": [item.name for item in model.signatures],
        **spec.stamp(),
        "tf_serving": {"since": releases.since, "because": list(releases.because), "onednn": list(releases.onednn)},
        "check": None,
        "tokenizer_check": None,
        "bare_tokenizer": bare.to_json() if bare is not None else None,
    }
