"""Export a model in one precision: ``python -m benchmarks.encoders.export SOURCE MODELS_DIR NAME PRECISION``.

The benchmark compares the vectors itself, so that the export's own proof is left out where it can be.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main() -> None:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import toolkit

    source, models_dir, name, precision = sys.argv[1:5]
    options: dict[str, Any] = {} if precision == "float32" else {"precision": precision}
    if precision == "bfloat16":
        options["optimize"] = "latency"  # which is not the default: the peers take such kernels by themselves
    print(toolkit.export(source, models_dir, name, version=1, verify=False, **options).path)


if __name__ == "__main__":
    main()
