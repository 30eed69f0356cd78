"""The tasks that models are made for: one class of sentence-transformers each, one line of the table each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.errors import InputError

__all__ = ["TASKS", "Task", "module_type", "require_task", "task_of_class"]

# How transformers' classes without a head end ("LMHeadModel" and the like have one); Contriever's is BertModel under
# another name.
_HEADLESS = re.compile(r"(?<!LMHead)(?<!DoubleHeads)Model\Z|Contriever\Z")
_STANFORD = re.compile(r"\AHF_ColBERT\Z")

_WORDS = "its words are split in Python by rules of its own, not by a tokenizer.json"
_WHY_NOT: Mapping[str, str] = {
    "WordEmbeddings": _WORDS,
    "BoW": _WORDS,
    "WordWeights": "it weighs the words of WordEmbeddings, which have no tokenizer.json",
    "CNN": "it looks beyond a text's last token, so that vectors depend on the padding, and so on the batch",
    "LSTM": "it asks for the lengths that only WordEmbeddings gives",
    "WeightedLayerPooling": "it needs the hidden states of every layer, and the graph has the last one",
}
"""Modules of sentence-transformers that no task takes, with the reason."""


@dataclass(frozen=True)
class Task:
    """What the models of one class of sentence-transformers (6.2) are for, which ``doc`` says in words.

    ``model_class`` is the name of that class, as ``config_sentence_transformers.json`` has it too. ``module_types`` are
    the classes of modules that its models may have, and ``transformer_tasks`` what their Transformer module may do. A
    folder as transformers saves it, without ``modules.json``, is one of this task where the name of its class is found
    by ``architectures``: by itself; by ``asked``: where the task is asked for (in words: ``plain``).
    ``other_classes`` are what other packages call the class, whose folders sentence-transformers loads as its own.
    ``cut_by_role``: queries and documents may be cut at lengths of their own.
    """

    name: str
    doc: str
    model_class: str
    module_types: tuple[str, ...]
    transformer_tasks: tuple[str, ...]
    architectures: re.Pattern[str] | None
    plain: str
    asked: re.Pattern[str] | None = None
    other_classes: tuple[str, ...] = ()
    cut_by_role: bool = False

    def takes(self, architecture: str, *, asked: bool) -> bool:
        """Whether a folder without ``modules.json`` that holds a class of that name is one of this task."""
        patterns = (self.architectures, self.asked if asked else None)
        return any(pattern is not None and pattern.search(architecture) for pattern in patterns)

    def supported_in_place_of(self, kind: str) -> str:
        """The module types that there may be, and why one of this name may not, where that is known."""
        reason = f"; {kind}: {_WHY_NOT[kind]}" if kind in _WHY_NOT else ""
        return ", ".join(self.module_types) + reason


# Module classes that the spec knows. Their dotted paths changed between releases (sentence_transformers.models.X,
# sentence_transformers.base.modules.X.X, ...): the class name decides.
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "embed",
            "from a text to its embedding",
            "SentenceTransformer",
            ("Transformer", "StaticEmbedding", "Router", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout"),
            ("feature-extraction",),
            _HEADLESS,
            "encoders without a head, such as BertModel",
        ),
        Task(
            "rerank",
            "from a query and a document to a score",
            "CrossEncoder",
            ("Transformer", "LogitScore"),
            ("sequence-classification", "text-generation"),
            re.compile(r"ForSequenceClassification\Z"),
            "encoders with a head that classifies texts, such as BertForSequenceClassification; decoders where the "
            "task is asked for, such as Qwen3ForCausalLM",
            re.compile(r"ForCausalLM\Z"),
        ),
        Task(
            "multi_vector",
            "from a text to a vector for each of its tokens",
            "MultiVectorEncoder",
            ("Transformer", "Dense", "MultiVectorMask", "Normalize", "HierarchicalTokenPooling"),
            ("feature-extraction",),
            _STANFORD,
            "Stanford's ColBERT (HF_ColBERT)",
            other_classes=("ColBERT",),  # PyLate's
            cut_by_role=True,
        ),
        Task(
            "sparse",
            "from text to a number for each word of the vocabulary, most of them 0",
            "SparseEncoder",
            ("Transformer", "SpladePooling", "Router", "SparseStaticEmbedding"),
            ("fill-mask",),
            None,
            "masked language models, such as BertForMaskedLM",
            re.compile(r"ForMaskedLM\Z"),
        ),
    )
}
"""By name, in the order in which a folder that could be of several is taken."""


def module_type(name: str) -> str:
    """The name of a module's class as it stands here; releases before 5.4 had another for a Transformer that fills
    masks."""
    return "Transformer" if name == "MLMTransformer" else name


def require_task(name: str) -> Task:
    """The task of that name. Raises ``InputError`` if there is none."""
    if name not in TASKS:
        raise InputError(f"task {name!r}: not supported; supported: {', '.join(TASKS)}")
    return TASKS[name]


def task_of_class(name: str) -> Task | None:
    """The task whose models are of the class of that name in sentence-transformers, if there is one."""
    return next((task for task in TASKS.values() if name in (task.model_class, *task.other_classes)), None)
