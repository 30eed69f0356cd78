"""What can be exported: families, modules, tokenizers and signatures, from the tables that exports are dispatched by.

The public models are rows of data; whether one works is not: it follows from the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.encoder.families import FAMILIES, MODEL_TYPES
from toolkit.heads import HEADS
from toolkit.heads.classifier import CLASSIFIERS
from toolkit.heads.logit_score import LOGIT_SCORE_TYPES
from toolkit.heads.masked_lm import MASKED_LM_TYPES
from toolkit.heads.pooling import POOLING_MODES
from toolkit.heads.splade import SPLADE_ACTIVATIONS, SPLADE_STRATEGIES
from toolkit.signatures import FURTHER_SIGNATURES, PAIR_SIGNATURES, SIGNATURES
from toolkit.source.tasks import TASKS
from toolkit.sparse_signatures import SPARSE_SIGNATURES
from toolkit.tokenizer import TOKENIZER_KINDS
from toolkit.vectors_signatures import VECTORS_SIGNATURES

__all__ = ["PUBLIC_MODELS", "Catalogue", "PublicModel", "catalogue"]

_UNFIT_TOKENIZERS = {
    "MeCab": "a tokenizer without a fast form (tokenizer.json)",
}


_STATIC = "StaticEmbedding"
"""What stands for a ``model_type`` where there is no encoder."""


@dataclass(frozen=True)
class PublicModel:
    """A model of the hub: its ``model_type``, its kind of tokenizer, and ``unserved``, what else it needs."""

    name: str
    model_type: str
    tokenizer: str
    unserved: str | None = None

    @property
    def reason(self) -> str | None:
        """Why it is refused; ``None`` where it works."""
        if self.unserved is not None:
            return self.unserved
        if self.model_type not in (*MODEL_TYPES, _STATIC):
            return f"model_type {self.model_type}"
        if self.tokenizer not in TOKENIZER_KINDS:
            return _UNFIT_TOKENIZERS[self.tokenizer]
        return None


@dataclass(frozen=True)
class Catalogue:
    """Each row is a tuple of texts: tasks (name, class, doc), families (whose, model types), modules, tokenizers,
    signatures (name, doc)."""

    tasks: tuple[tuple[str, str, str], ...]
    families: tuple[tuple[str, str], ...]
    modules: tuple[tuple[str, str], ...]
    tokenizers: tuple[tuple[str, str], ...]
    signatures: tuple[tuple[str, str], ...]
    models: tuple[PublicModel, ...]

    def markdown(self) -> str:
        """The tables of ``docs/models.md``."""
        models = [
            (model.name, model.model_type, model.tokenizer, f"refused: {model.reason}" if model.reason else "works")
            for model in self.models
        ]
        return "\n".join(
            [
                _table(("task", "class in sentence-transformers", ""), self.tasks),
                _table(("family", "`model_type`"), self.families),
                _table(("module", "how"), self.modules),
                _table(("tokenizer", "as in"), self.tokenizers),
                _table(("signature", "what it does"), self.signatures),
                _table(("public model", "`model_type`", "tokenizer", ""), models),
            ]
        )


def catalogue() -> Catalogue:
    """The tables as they stand."""
    return Catalogue(
        tasks=tuple((task.name, task.model_class, task.doc) for task in TASKS.values()),
        families=tuple((family.title, ", ".join(family.model_types)) for family in FAMILIES),
        modules=(
            ("Transformer", "one of the families"),
            (_STATIC, "the mean of a table's rows in the place of Transformer and Pooling, model2vec's files too"),
            ("Router", "as the first module: one way by default, others for queries and documents"),
            ("Pooling", ", ".join(POOLING_MODES)),
            *((name, _first_line(head)) for name, head in HEADS.items()),
            ("Dropout", "which does nothing at inference"),
            ("head that classifies, of a CrossEncoder", f"as transformers has it for {', '.join(CLASSIFIERS)}"),
            ("LogitScore, of a CrossEncoder", f"with or without a chat template, for {', '.join(LOGIT_SCORE_TYPES)}"),
            ("MultiVectorMask", "of a MultiVectorEncoder: skip lists, lists of tokens to keep, query expansion"),
            ("HierarchicalTokenPooling", "of a MultiVectorEncoder: clusters of vectors to their means, in float32"),
            ("head that fills masks, of a SparseEncoder", f"as transformers has it for {', '.join(MASKED_LM_TYPES)}"),
            ("SpladePooling", f"{' or '.join(SPLADE_STRATEGIES)} over tokens, {' or '.join(SPLADE_ACTIVATIONS)}"),
            ("SparseStaticEmbedding", "a weight for each token: the whole model, or a Router's route"),
        ),
        tokenizers=tuple(TOKENIZER_KINDS.items()),
        signatures=(
            *((item.name, item.doc) for item in SIGNATURES),
            *FURTHER_SIGNATURES,
            *PAIR_SIGNATURES,
            *VECTORS_SIGNATURES,
            *SPARSE_SIGNATURES,
        ),
        models=PUBLIC_MODELS,
    )


def _first_line(head: type) -> str:
    return (head.__doc__ or "").split(".\n")[0].split("\n\n")[0].replace("``", "`").replace("\n    ", " ").rstrip(".")


def _table(titles: tuple[str, ...], rows: object) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    assert isinstance(rows, tuple | list)
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


PUBLIC_MODELS: tuple[PublicModel, ...] = tuple(
    PublicModel(*row)
    for row in (
        ("sentence-transformers/all-MiniLM-L6-v2", "bert", "WordPiece"),
        ("sentence-transformers/all-MiniLM-L12-v2", "bert", "WordPiece"),
        ("sentence-transformers/all-mpnet-base-v2", "mpnet", "WordPiece"),
        ("sentence-transformers/multi-qa-mpnet-base-dot-v1", "mpnet", "WordPiece"),
        ("sentence-transformers/multi-qa-MiniLM-L6-cos-v1", "bert", "WordPiece"),
        ("sentence-transformers/all-distilroberta-v1", "roberta", "byte-level BPE"),
        ("sentence-transformers/msmarco-distilbert-base-v4", "distilbert", "WordPiece"),
        ("sentence-transformers/paraphrase-MiniLM-L6-v2", "bert", "WordPiece"),
        ("sentence-transformers/paraphrase-albert-small-v2", "albert", "Unigram"),
        ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "bert", "Unigram"),
        ("sentence-transformers/paraphrase-multilingual-mpnet-base-v2", "xlm-roberta", "Unigram"),
        ("sentence-transformers/distiluse-base-multilingual-cased-v2", "distilbert", "WordPiece"),
        ("sentence-transformers/LaBSE", "bert", "WordPiece"),
        ("sentence-transformers/sentence-t5-base", "t5", "Unigram"),
        ("sentence-transformers/gtr-t5-base", "t5", "Unigram"),
        ("intfloat/e5-base-v2", "bert", "WordPiece"),
        ("intfloat/multilingual-e5-small", "bert", "Unigram"),
        ("intfloat/multilingual-e5-base", "xlm-roberta", "Unigram"),
        ("intfloat/multilingual-e5-large", "xlm-roberta", "Unigram"),
        ("intfloat/multilingual-e5-large-instruct", "xlm-roberta", "Unigram"),
        ("intfloat/e5-mistral-7b-instruct", "mistral", "SentencePiece BPE"),
        ("BAAI/bge-small-en-v1.5", "bert", "WordPiece"),
        ("BAAI/bge-base-en-v1.5", "bert", "WordPiece"),
        ("BAAI/bge-large-en-v1.5", "bert", "WordPiece"),
        ("BAAI/bge-m3", "xlm-roberta", "Unigram"),
        ("BAAI/bge-multilingual-gemma2", "gemma2", "SentencePiece BPE"),
        ("thenlper/gte-small", "bert", "WordPiece"),
        ("thenlper/gte-base", "bert", "WordPiece"),
        ("Alibaba-NLP/gte-base-en-v1.5", "new", "WordPiece", "code of its own; taken where converted to gte"),
        ("alibaba-nlp-community/gte-multilingual-base", "gte", "Unigram"),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "qwen2", "byte-level BPE", "code of its own, named by auto_map"),
        ("Alibaba-NLP/gte-modernbert-base", "modernbert", "byte-level BPE"),
        ("nomic-ai/modernbert-embed-base", "modernbert", "byte-level BPE"),
        ("nomic-ai/nomic-embed-text-v1.5", "nomic_bert", "WordPiece"),
        ("nomic-ai/nomic-embed-text-v2-moe", "nomic_bert", "Unigram", "a mixture of experts (moe_every_n_layers)"),
        ("mixedbread-ai/mxbai-embed-large-v1", "bert", "WordPiece"),
        ("Snowflake/snowflake-arctic-embed-m", "bert", "WordPiece"),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "xlm-roberta", "Unigram"),
        ("WhereIsAI/UAE-Large-V1", "bert", "WordPiece"),
        ("jinaai/jina-embeddings-v2-base-en", "bert", "WordPiece", "code of its own (ALiBi), named by auto_map"),
        ("jinaai/jina-embeddings-v3", "xlm-roberta", "Unigram", "code of its own; taken where converted as below"),
        ("jinaai/jina-embeddings-v3-hf", "jina_embeddings_v3", "Unigram"),
        ("jhgan/ko-sroberta-multitask", "roberta", "WordPiece"),
        ("dangvantuan/sentence-camembert-base", "camembert", "Unigram"),
        ("facebook/contriever", "bert", "WordPiece"),
        ("princeton-nlp/sup-simcse-roberta-base", "roberta", "byte-level BPE"),
        ("cambridgeltl/SapBERT-from-PubMedBERT-fulltext", "bert", "WordPiece"),
        ("cl-nagoya/ruri-base", "bert", "MeCab"),
        ("ibm-granite/granite-embedding-125m-english", "roberta", "byte-level BPE"),
        ("ibm-granite/granite-embedding-278m-multilingual", "xlm-roberta", "Unigram"),
        ("Qwen/Qwen3-Embedding-0.6B", "qwen3", "byte-level BPE"),
        ("google/embeddinggemma-300m", "gemma3_text", "SentencePiece BPE"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "bert", "WordPiece"),
        ("cross-encoder/stsb-roberta-base", "roberta", "byte-level BPE"),
        ("BAAI/bge-reranker-base", "xlm-roberta", "Unigram"),
        ("BAAI/bge-reranker-v2-m3", "xlm-roberta", "Unigram"),
        ("mixedbread-ai/mxbai-rerank-base-v1", "deberta-v2", "Unigram"),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "modernbert", "byte-level BPE"),
        ("Qwen/Qwen3-Reranker-0.6B", "qwen3", "byte-level BPE"),
        ("naver/splade-v3", "bert", "WordPiece"),
        ("minishlab/potion-base-8M", _STATIC, "WordPiece"),
        ("sentence-transformers/static-retrieval-mrl-en-v1", _STATIC, "WordPiece"),
        ("sentence-transformers/static-similarity-mrl-multilingual-v1", _STATIC, "WordPiece"),
    )
)
"""Those asked for most. What stands here of each is its model card's and its configuration's."""
