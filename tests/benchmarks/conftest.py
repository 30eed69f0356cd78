"""The benchmarks are no part of the installed package: their folder comes last, so that it hides nothing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
