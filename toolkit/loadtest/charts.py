"""Charts as inline SVG, whose colours are the page's: one drawing serves light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import MissingExtraError

__all__ = ["Line", "chart"]

# Stand-ins that matplotlib draws with -> the page's custom properties.
_COLOURS = {
    "#010203": "var(--ink)",
    "#010204": "var(--faint)",
    "#010205": "var(--blue)",
    "#010206": "var(--orange)",
    "#010207": "var(--red)",
    "#010208": "var(--green)",
}
_BY_NAME = {value[6:-1]: key for key, value in _COLOURS.items()}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.edgecolor": _BY_NAME["faint"],
    "axes.labelcolor": _BY_NAME["ink"],
    "axes.titlecolor": _BY_NAME["ink"],
    "text.color": _BY_NAME["ink"],
    "xtick.color": _BY_NAME["ink"],
    "ytick.color": _BY_NAME["ink"],
    "grid.color": _BY_NAME["faint"],
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Line:
    """One series; ``None`` leaves a gap. ``colour`` is ``blue``, ``orange``, ``red``, ``green`` or ``ink``."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    marker: bool = False
    dashed: bool = False
    bars: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (),
    verticals: Sequence[tuple[float, str, str]] = (),
    horizontals: Sequence[tuple[float, str, str]] = (),
) -> str:
    """An SVG element. ``verticals`` and ``horizontals`` are (place, words, colour). Needs matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "loadtest") from error
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(6.1, 3.3), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            y = [float("nan") if value is None else value for value in line.y]
            colour = _BY_NAME[line.colour]
            if line.bars:
                axes.bar(line.x, y, color=colour, label=line.name, width=0.9)
            else:
                style = "--" if line.dashed else "-"
                dot = "o" if line.marker or len(y) == 1 else None
                axes.plot(line.x, y, color=colour, label=line.name, linestyle=style, marker=dot, markersize=4)
        for place, words, colour in verticals:
            axes.axvline(place, color=_BY_NAME[colour], linestyle=":", label=words)
        for place, words, colour in horizontals:
            axes.axhline(place, color=_BY_NAME[colour], linestyle=":", label=words)
        plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            highest = max((value for line in lines for value in line.y if value is not None), default=0.0)
            axes.set_ylim(0, 1 if highest == 0 else None)
        axes.yaxis.set_major_formatter(plain)
        if log_x:
            axes.set_xscale("log")
        if x_ticks:
            axes.set_xticks([place for place, _ in x_ticks], [words for _, words in x_ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(True)
        if len(lines) + len(verticals) + len(horizontals) > 1:
            figure.legend(loc="outside upper left", ncols=4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', svg, count=1
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
