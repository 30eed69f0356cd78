"""The tasks that can be exported: a spec and a model each, one line of each table each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolkit.encoder.layout import Layout
from toolkit.graph.spec import TaskSpec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.graph.tasks.sparse import SparseSpec
from toolkit.signatures import Views

if TYPE_CHECKING:
    from toolkit.graph.model import ServingModel
    from toolkit.source.checkpoint import Checkpoint

__all__ = ["SPECS", "read_spec", "serving_model"]

SPECS: Mapping[str, type[TaskSpec]] = {spec.task: spec for spec in (EmbedSpec, RerankSpec, MultiVectorSpec, SparseSpec)}
"""The name of a task to the class of its specs."""


def read_spec(checkpoint: Checkpoint, views: Views = Views()) -> TaskSpec:
    """The spec of a checkpoint, of whatever task. Raises what :meth:`TaskSpec.read` does."""
    return SPECS[checkpoint.task].read(checkpoint, views)


def serving_model(spec: TaskSpec, layout: Layout = Layout(), **options: Any) -> ServingModel:
    """The model of ``spec``, its graph laid out as ``layout`` says; the options are those of its class. Imports
    tensorflow."""
    from toolkit.graph.tasks.embed_model import EmbedModel
    from toolkit.graph.tasks.multi_vector_model import MultiVectorModel
    from toolkit.graph.tasks.rerank_model import RerankModel
    from toolkit.graph.tasks.sparse_model import SparseModel

    models: Mapping[str, type[ServingModel]] = {
        "embed": EmbedModel,
        "rerank": RerankModel,
        "multi_vector": MultiVectorModel,
        "sparse": SparseModel,
    }
    return models[spec.task](spec, layout, **options)
