"""The same amount of more text takes the same amount of more work, whatever it consists of: counted, not timed.

Counted are the ops that run and the elements that they yield, in the loops of the graph as well. What single kernels do
inside is linear by their construction (RE2, double arrays) or nearly so (sorting, SentencePiece's queue of pairs).
"""

from __future__ import annotations

import json
import lzma
import math
import re
from collections.abc import Callable

import pytest
import tensorflow as tf
from marks import long_but
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from unigram_support import CHARSMAP, make_unigram

from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer
from toolkit.tokenizer.bpe.spec import SPLITS
from toolkit.tokenizer.bpe.steps import BytePairs
from toolkit.tokenizer.texts import NATURAL
from toolkit.tokenizer.unigram.steps import Unigram

# Ops that hand on what is there already (a loop, all that it does not change; a function, what it is given).
_PASSES_ON = re.compile(r" = (_Arg|Const|Identity|IdentityN|Enter|RefEnter|Exit|Merge|NextIteration|Switch)\(")
LENGTH = (
    2000  # of the shortest text: long enough that words on which rounded sums cannot decide are searched in all three
)

# By name: a text of about so many characters.
TEXTS: dict[str, Callable[[int], str]] = {
    "prose": lambda n: "The quick brown fox, naïve 中国 cafe\u0301s; " * (n // 40),
    "languages": lambda n: "".join(f"{sentence[:8]} " for sentence in NATURAL) * (n // LENGTH),
    "one word": lambda n: ("internationalization" * n)[:n],
    "one character": lambda n: "a" * n,
    "two characters": lambda n: "ab" * (n // 2),
    "spaces": lambda n: " " * n,
    "short words": lambda n: "a " * (n // 2),
    "long words and one much longer": lambda n: "".join(f"{'a' * (400 + k)} " for k in range(n // 200)) + "a" * 2 * n,
    "marks": lambda n: "e" + "\u0301" * n,
    "marks out of order": lambda n: "e\u0301\u0323" * (n // 3),
    "marks of one letter out of order": lambda n: "a" + "\u0301\u0323" * (n // 2),
    "Korean letters": lambda n: "\u1112\u1161\u11ab" * (n // 3),
    "Korean vowels": lambda n: "\u1112" + "\u1161" * n,
    "letters that compose with themselves": lambda n: "\U00016d63" + "\U00016d67" * n,
    "emoji": lambda n: "👨\u200d👩\u200d👧" * (n // 5),
    "added tokens": lambda n: "<mask>" * (n // 6),
}


@pytest.fixture(scope="module")
def xlmr_like() -> Tokenizer:
    return make_unigram(lzma.decompress(CHARSMAP.read_bytes()))


@pytest.fixture(scope="module")
def composing() -> Tokenizer:
    """Byte-level BPE with NFC and a newer split."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLITS["Qwen 2"]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(NATURAL, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


@pytest.fixture(scope="module")
def over_characters() -> Tokenizer:
    """As Llama 2 has it: no pre-tokenizer, and bytes of what has no token. Some tokens have a mark inside."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special, max_token_length=12, show_progress=False)
    tokenizer.train_from_iterator(NATURAL, trainer)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    root = json.loads(tokenizer.to_str())
    root["added_tokens"] = root["added_tokens"][:1]
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


class _Work:
    """A tokenizer's graph in a session that reports every op it runs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        spec = read_tokenizer(TokenizerSource(tokenizer.to_str(), "tokenizer.json", None))
        graph = build_tokenizer(spec)
        signature = [tf.TensorSpec([None], tf.string)]
        function = tf.function(lambda text: graph(text).ids, input_signature=signature).get_concrete_function()
        frozen = convert_variables_to_constants_v2(function)
        self.text, self.ids = frozen.inputs[0].name, frozen.outputs[0].name
        with frozen.graph.as_default():
            keeping = [step for step in graph.steps if isinstance(step, Unigram | BytePairs)]
            self.forget = [step.seen.forget(step.digest) for step in keeping]
        self.session = tf.compat.v1.Session(graph=frozen.graph)

    def __call__(self, text: str) -> int:
        """Ops run, plus the elements of all tensors that they yielded."""
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        metadata = tf.compat.v1.RunMetadata()
        self.session.run(self.forget)  # a word that was seen before takes less work
        self.session.run(self.ids, {self.text: [text]}, options, metadata)
        nodes = [node for device in metadata.step_stats.dev_stats for node in device.node_stats]
        nodes = [node for node in nodes if not _PASSES_ON.search(node.timeline_label)]
        shapes = [output.tensor_description.shape.dim for node in nodes for output in node.output]
        return len(nodes) + sum(math.prod(dim.size for dim in shape) for shape in shapes)


FIXTURES = {
    "WordPiece": "plain",
    "BPE": "composing",
    "BPE over characters": "over_characters",
    "Unigram": "xlmr_like",
}


@pytest.fixture(scope="module", params=long_but(("WordPiece", "BPE", "Unigram"), FIXTURES))
def work(request: pytest.FixtureRequest) -> _Work:
    return _Work(request.getfixturevalue(FIXTURES[request.param]))


@pytest.mark.parametrize("name", TEXTS)
def test_work_grows_no_faster_than_the_text(work, name):
    counts = [work(TEXTS[name](LENGTH * factor)) for factor in (1, 2, 3)]
    assert counts[2] - counts[1] < 1.1 * (counts[1] - counts[0]) + 100, counts
