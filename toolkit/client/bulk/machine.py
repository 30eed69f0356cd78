"""What this machine, or the container that this process runs in, has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_limit"]


def memory_limit(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process can have at most: the machine's, or what the cgroup (version 2, then 1) allows,
    as a container sees its own."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            said = (cgroups / name).read_text().strip()
        except OSError:
            continue
        if said.isdecimal():  # else "max"
            limits.append(int(said))
    return min(limits)
