"""What an artifact's graph is laid out for: a CPU, or a GPU.

The two want the opposite of each other. A CPU is fastest on chunks whose activations stay in its second-level cache,
several of them beside each other. A GPU is fastest on a few large products, and each operation costs a launch, however
little there is to do. Either artifact computes the same, and both run on a CPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["CPU", "GPU", "PACKED_KERNEL", "TARGETS", "Target"]

PACKED_KERNEL = "_MklNativeFusedMatMul"
"""The kernel that keeps weights packed: an internal op of TensorFlow builds with oneDNN, which are the official ones
for Linux. It is there with oneDNN switched off too."""

WIDE = 1024
"""The hidden size from which on a CPU's chunks are larger."""


@dataclass(frozen=True)
class Target:
    """How a graph is laid out.

    ``chunk_tokens``: padded tokens, at most, in a chunk of several rows. ``chunks_at_a_time``: chunks of a batch that
    may be computed beside each other. ``part_tokens``: in float32 a batch of ``whole_tokens`` or more is cut into an
    even number of parts of about as many at most, equal but for where rows end (``None``: only as ``chunk_tokens``
    asks). ``buckets``: lengths of padded rows are powers of two, counts of tokens multiples of 128, and a single row
    has no path of its own, so that there are few shapes; else both are filled up as little as the CPU's kernels ask
    for. ``host_indices``: tokenizing, and all that says where a token goes, is kept on the CPU: TensorFlow would put
    single operations of it on the GPU, with copies between, or run them on the host one by one. ``transposes``: heads
    are taken apart and put together by moving whole tokens, and not by an index of each head's part of each token.
    ``norm_kernel``: LayerNorm may be written for oneDNN's kernel. ``packed_kernel``: one short text may have products
    of weights that oneDNN keeps packed. ``precisions``: those of the encoder's products that there are kernels for.
    ``environment``: variables that a server's process must have for products to be what was proved.
    """

    name: str
    chunk_tokens: int
    chunks_at_a_time: int
    whole_tokens: int
    part_tokens: int | None
    buckets: bool
    host_indices: bool
    transposes: bool
    norm_kernel: bool
    packed_kernel: bool
    precisions: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def of_hidden_size(self, size: int) -> Target:
        """The same for float32 encoders of that hidden size: where weights are large, reading them for each chunk
        takes longer than what leaves the cache does, and chunks have twice as many tokens."""
        if self.part_tokens is None or size < WIDE:
            return self
        return replace(self, chunk_tokens=2 * self.chunk_tokens, part_tokens=2 * self.part_tokens)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, for provenance."""
        return {**asdict(self), "precisions": list(self.precisions), "environment": dict(self.environment)}


CPU = Target(
    name="cpu",
    # few enough for a chunk's activations to stay in the second-level cache and for a batch to have chunks for several
    # threads; enough for products at full speed
    chunk_tokens=384,
    # That shares work out better than threads inside each small product do.
    chunks_at_a_time=8,
    # So that of two threads none waits for the other. With fewer than 40 rows products would take much longer, and with
    # fewer than 200 a little, the more so the larger a model's weights are: they are read anew for each part.
    whole_tokens=80,
    part_tokens=256,
    buckets=False,
    host_indices=False,
    transposes=False,
    norm_kernel=True,
    packed_kernel=True,
    precisions=("float32", "bfloat16", "int8"),
    environment=(),
)

GPU = Target(
    name="gpu",
    # 128 texts of 128 tokens: products of some thousand rows, and the scores of one layer stay under a gigabyte
    chunk_tokens=16_384,
    chunks_at_a_time=1,
    whole_tokens=0,
    part_tokens=None,
    buckets=True,
    host_indices=True,
    transposes=True,
    # On a GPU that form is a batch normalization of as many channels as there are tokens.
    norm_kernel=False,
    packed_kernel=False,
    # int8 products are oneDNN's, for CPUs alone. float16 overflows in some models; bfloat16 has float32's range.
    precisions=("float32", "bfloat16"),
    # TensorFlow lets GPUs multiply float32 in TF32, of 11 significant bits, which no proof on a CPU bounds.
    environment=(("NVIDIA_TF32_OVERRIDE", "0"),),
)

TARGETS = {target.name: target for target in (CPU, GPU)}
