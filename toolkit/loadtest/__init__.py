"""Load tests that tell the truth: open loop, latency from the intended send time, errors counted.

``run(Settings(...))`` gives a `Report`. Needs the extra ``[loadtest]``; imports neither tensorflow nor torch.
"""

from toolkit.loadtest.report import Report, load, save
from toolkit.loadtest.run import Settings, run
from toolkit.loadtest.schedule import Closed, Rates, Replay, Segment, constant, ramp, steps
from toolkit.loadtest.slo import Objective, judge, parse_slo
from toolkit.loadtest.texts import Distribution, Target, TextSource

__all__ = [
    "Closed",
    "Distribution",
    "Objective",
    "Rates",
    "Replay",
    "Report",
    "Segment",
    "Settings",
    "Target",
    "TextSource",
    "constant",
    "judge",
    "load",
    "parse_slo",
    "ramp",
    "run",
    "save",
    "steps",
]
