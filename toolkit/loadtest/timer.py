"""A timer of the kernel's: event loops round their own timers up to whole milliseconds, which would be the greater part
of a fast server's latency."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

__all__ = ["KernelTimer"]

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_MONOTONIC = 1  # CLOCK_MONOTONIC, which all processes of a machine share


class KernelTimer:
    """``fd`` becomes readable at the time that was set last."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._time = (ctypes.c_long * 4)()  # struct itimerspec: interval and value, seconds and nanoseconds each

    def at(self, seconds: float) -> None:
        """Ring at ``seconds`` of `time.monotonic`; at once if that is past."""
        nanoseconds = max(1, int(seconds * 1e9))
        self._time[2], self._time[3] = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self.fd, _ABSOLUTE, self._time, None)

    def rang(self) -> bool:
        """Whether it has rung since it was asked last."""
        with suppress(BlockingIOError):
            return bool(os.read(self.fd, 8))
        return False

    def close(self) -> None:
        os.close(self.fd)
