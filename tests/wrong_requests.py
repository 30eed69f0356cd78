"""Requests as nobody means them, and a process that puts them to artifacts as servers without checks of their own do.

    python tests/wrong_requests.py [--pairs] VERSION_FOLDER...

Exit code 0: every request was answered or refused as it should be. A crash is the process's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.signatures import SIGNATURES, Prompt, Signature, all_pair_signatures, pair_signatures

Array = npt.NDArray[Any]
Run = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]

PAIR_SIGNATURES = all_pair_signatures(pair_signatures([Prompt(None, "")], 1))
GOOD = {"text": np.array([b"hello world", b"", b"a longer text with several words in it"], object)}
GOOD_PAIRS = {"query": GOOD["text"], "document": GOOD["text"][::-1]}
TYPES = ("string", "int32")
SMALLEST, LARGEST = -(2**31), 2**31 - 1
WORDS, PLACES = 300, 64
"""Token ids that every tiny model knows, and positions that it has."""


@dataclass(frozen=True)
class Request:
    """Inputs of a signature. ``refused``: what an error has to say; empty where there is to be an answer."""

    signature: str
    inputs: dict[str, Array]
    refused: str = ""

    @property
    def rows(self) -> int:
        """Of an answer."""
        return int(next(iter(self.inputs.values())).shape[0])


def requests(seed: int, count: int, signatures: Sequence[Signature] = SIGNATURES) -> Iterator[Request]:
    """Requests of every signature with texts of any bytes, shapes, values and types, right and wrong ones."""
    random = np.random.default_rng(seed)
    for number in range(count):
        signature = signatures[number % len(signatures)]
        if len(signature.inputs) == 1:
            yield _of_texts(random, signature.name)
        elif len(signature.inputs) == 2:
            yield _of_pairs(random, signature.name)
        else:
            yield _of_tokens(random, signature.name)


def _shape(random: np.random.Generator, right: int) -> tuple[int, ...]:
    rank = right if random.random() < 0.4 else int(random.integers(0, 5))
    return tuple(random.choice([0, 1, 1, 2, 3], rank).tolist())


def _words(shape: tuple[int, ...]) -> str:
    return f"[{' '.join(map(str, shape))}]"


def _of_texts(random: np.random.Generator, signature: str) -> Request:
    shape = _shape(random, 1)
    values = _column(random, shape)
    if random.random() < 0.1:
        return Request(signature, {"text": np.zeros(shape, np.int32)}, "string")
    wanted = "" if _is_column(shape) else f"text must have the shape [batch], not] {_words(shape)}"
    return Request(signature, {"text": values}, wanted)


def _of_pairs(random: np.random.Generator, signature: str) -> Request:
    shape = _shape(random, 1)
    shapes = {"query": shape, "document": shape if random.random() < 0.5 else _shape(random, 1)}
    values = {name: _column(random, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if not _is_column(shape):
            return Request(signature, values, f"{name} must have the shape [batch], not] {_words(shape)}")
    rows = [shape[0] for shape in shapes.values()]
    if rows[0] != rows[1]:
        return Request(signature, values, f"query and document must have as many rows, not] [{rows[0]}] [{rows[1]}]")
    return Request(signature, values)


def _is_column(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _column(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values = np.empty(shape, object)
    values.ravel()[:] = [_text(random) for _ in range(values.size)]
    return values


def _text(random: np.random.Generator) -> bytes:
    length = int(random.choice([0, 1, 7, 60, 3000]))
    kind = random.integers(0, 4)
    if kind == 0:
        return random.bytes(length)
    if kind == 1:
        return bytes([random.integers(0, 256)]) * length
    if kind == 2:
        points = random.integers(0, 0x110000, length).tolist()
        return "".join(map(chr, points)).encode("utf-8", "surrogatepass")
    return b" ".join([b"word", b"[SEP]", b"<s>", b"\xcc\x81", b"\xed\xa0\x80"] * (length // 20))


def _of_tokens(random: np.random.Generator, signature: str) -> Request:
    shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), _shape(random, 2))
    if random.random() < 0.1:
        shapes = dict.fromkeys(shapes, (2, PLACES + 1))
    if random.random() < 0.4:
        shapes[str(random.choice([*shapes]))] = _shape(random, 2)
    ids, mask, types = (
        random.integers(0, limit, shape, dtype=np.int32)
        for limit, shape in zip((WORDS, 2, 2), shapes.values(), strict=True)
    )
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if random.random() < 0.4:
        spoilt = inputs[str(random.choice([*inputs]))]
        if spoilt.size:
            spoilt.reshape(-1)[random.integers(spoilt.size)] = random.choice([SMALLEST, -1, 2, LARGEST])
    if random.random() < 0.1:
        name = str(random.choice([*inputs]))
        return Request(signature, inputs | {name: inputs[name].astype(np.int64)}, "int32")
    return Request(signature, inputs, _fault(**inputs))


def _fault(input_ids: Array, attention_mask: Array, token_type_ids: Array) -> str:
    values = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    for name, value in values.items():
        if value.ndim != 2:
            return f"{name} must have the shape [batch, length], not] {_words(value.shape)}"
    if len({value.shape for value in values.values()}) > 1:
        shapes = " ".join(_words(value.shape) for value in values.values())
        return f"input_ids, attention_mask and token_type_ids must have the same shape, not] {shapes}"
    if input_ids.shape[0] and not input_ids.shape[1]:
        return f"input_ids must have rows of at least one place, not the shape] {_words(input_ids.shape)}"
    if attention_mask.size and not 0 <= attention_mask.min() <= attention_mask.max() <= 1:
        return "attention_mask must be 0 or 1"
    seen = attention_mask == 1
    for name, found, limit in (
        ("input_ids", input_ids[seen], 2**30),
        ("token_type_ids", token_type_ids[seen], 2),
        ("positions", np.nonzero(seen)[1], PLACES),
    ):
        if found.size and not 0 <= found.min() <= found.max() < limit:
            return f"{name} must be from 0 to"
    return ""


def main() -> None:
    """Put the same requests to every artifact in a session that is fed, and to the first one as a loaded object too."""
    import tensorflow_text  # noqa: F401 - its ops

    pairs = sys.argv[1] == "--pairs"
    signatures, good, output = (PAIR_SIGNATURES, GOOD_PAIRS, "score") if pairs else (SIGNATURES, GOOD, "embedding")
    first, *others = sys.argv[1 + pairs :]
    for load, folder in ((_as_object, first), (_in_session, first), *((_in_session, other) for other in others)):
        run = load(folder)
        before = run("serving_default", good)[output]
        for number, request in enumerate(requests(0, 150, signatures)):
            print(folder, load.__name__, number, request.signature, request.refused, flush=True)
            _try(run, request)
        after = run("serving_default", good)[output]
        assert np.array_equal(before, after), "a good request has another answer afterwards"


def _try(run: Run, request: Request) -> None:
    import tensorflow as tf

    said = ""
    try:
        answer = run(request.signature, request.inputs)
    except tf.errors.InvalidArgumentError as error:
        said = error.message
    except (TypeError, ValueError) as error:
        said = f"{request.refused}? {error}" if request.refused in TYPES else str(error)  # Python's own words
    if said or request.refused:
        assert request.refused, said
        assert request.refused in said
        return
    for value in answer.values():
        assert len(value) == request.rows, value.shape
        assert value.dtype.kind != "f" or np.isfinite(value).all()


def _in_session(folder: str) -> Run:
    """As TF Serving runs it. ``Session.run`` would compare shapes, in Python: a server does not."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def
    made = {}
    for name in (name for name in signatures if not name.startswith("__")):
        feeds = [tensor.name for tensor in signatures[name].inputs.values()]
        fetches = [tensor.name for tensor in signatures[name].outputs.values()]
        made[name] = session._make_callable_from_options(config_pb2.CallableOptions(feed=feeds, fetch=fetches))

    def run(name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        values = made[name](*(inputs[alias] for alias in signatures[name].inputs))
        return dict(zip(signatures[name].outputs, values, strict=True))

    return run


def _as_object(folder: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)

    def run(name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        tensors = {
            alias: tf.constant(value, tf.string if value.dtype == object else None) for alias, value in inputs.items()
        }
        return {alias: value.numpy() for alias, value in loaded.signatures[name](**tensors).items()}

    return run


if __name__ == "__main__":
    main()
