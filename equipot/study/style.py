"""How the figures look: colours, type, and SVG that follows the reader's light or dark theme."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, OLIVE, GREY = "#D55E00", "#56B4E9", "#8A8A00", "#7F8790"
CYCLE = (GREEN, VERMILION, PINK, SKY, OLIVE, GREY)
"""For what is neither training (blue) nor validation (orange): test sets in order, curves of a scan.

Source: Okabe and Ito, "Color Universal Design" (2008); the yellow is darkened to be seen on white.
"""

INK = "#1f2328"
"""Text and axes; becomes `currentColor` in the SVG."""

_FONT = "DejaVu Sans"
_STACK = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_RC: dict[Any, Any] = {
    "font.family": _FONT,
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#8b949e",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 180,
    "svg.fonttype": "none",
    "svg.hashsalt": "equipot",
    "mathtext.default": "regular",
}


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        name: Short and unique, for example ``forces-test``.
        title: What is shown, in a few words.
        alt: The same for those who cannot see it, with the numbers that matter.
        figure: The drawing.
        note: A few words beside the title, such as the error.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    note: str = ""

    @property
    def anchor(self) -> str:
        """The name as the id of an element of a page."""
        return re.sub(r"\s+", "-", f"figure-{self.name}")

    def svg(self) -> str:
        """Returns an inline SVG element whose ink follows the colour of the text around it."""
        text = io.StringIO()
        with styled():
            self.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        return _inline(text.getvalue(), self.name, self.alt)

    def save_png(self, path: str, dpi: int = 160) -> None:
        """Writes the picture on white paper, for slides and for looking at."""
        with styled():
            self.figure.suptitle(f"{self.title}  {self.note}", fontsize=10, fontweight="bold", x=0.02, ha="left")
            self.figure.savefig(path, dpi=dpi, facecolor="white")


@contextmanager
def styled() -> Iterator[None]:
    """A context in which matplotlib draws in the style of the report; its settings are restored after."""
    with matplotlib.rc_context(_RC):
        yield


def canvas(rows: Sequence[float] = (1.0,), width: float = 4.3, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Returns a figure with axes below each other that share x.

    Args:
        rows: Relative heights of the axes.
        width: Inches; the page scales the picture to its column.
        height: Inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(len(rows), 1, height_ratios=list(rows), hspace=0.05)
    axes = [figure.add_subplot(grid[0])]
    axes += [figure.add_subplot(grid[i], sharex=axes[0]) for i in range(1, len(rows))]
    for upper in axes[:-1]:
        upper.tick_params(labelbottom=False)
    return figure, axes


def tints(colour: str) -> LinearSegmentedColormap:
    """Returns a colour map for densities: transparent to full colour, right on light and on dark paper."""
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    dark = (0.55 * r, 0.55 * g, 0.55 * b, 1.0)
    stops = [(0.0, (r, g, b, 0.30)), (0.6, (r, g, b, 1.0)), (1.0, dark)]
    return LinearSegmentedColormap.from_list(f"tints {colour}", stops)


def plain_log_axis(axes: Axes, which: str = "y") -> None:
    """Puts a log scale with plain numbers (0.1, 20, 3000) on an axis, some on a narrow one too."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    low, high = sorted(axis.get_view_interval())
    if low > 0 and high / low > 200:
        axis.set_major_locator(LogLocator(subs=(1.0,), numticks=20))
    if low > 0 and high / low < 4:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(NullFormatter())


def fixed(value: float, decimals: int) -> str:
    """Returns a number for people: so many decimals, a minus sign that is one, and zero without a sign."""
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}".replace("-", "−")


def significant(value: Any, digits: int = 3) -> str:
    """Returns a number for people: significant digits, no exponent where it can be avoided; – for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", " ")
    size = abs(float(value))
    if size != 0 and not 1e-4 <= size < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def duration(seconds: float) -> tuple[str, str]:
    """Returns a time as number and unit."""
    for limit, size, unit in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (float("inf"), 3600.0, "h")):
        if seconds < limit:
            return significant(seconds / size), unit
    return significant(seconds), "s"


def tick(value: float) -> str:
    """Returns a tick label without mathematics: 0.002, 35, 12000, 3·10⁻⁵."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return (f"10{power}" if mantissa == "1" else f"{mantissa}·10{power}").replace("-", "−")


def set_colours(names: Sequence[str]) -> dict[str, str]:
    """Returns the colour of each data set: training blue, validation orange, tests in the order given."""
    fixed = {"train": BLUE, "valid": ORANGE}
    tests = [name for name in names if name not in fixed]
    return {name: fixed[name] for name in names if name in fixed} | {
        name: CYCLE[i % len(CYCLE)] for i, name in enumerate(tests)
    }


def _inline(svg: str, name: str, alt: str) -> str:
    """Makes an SVG file an element of a page: own ids, the page's colours and fonts, a name for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(f"'{_FONT}'", _STACK)
    prefix = re.sub(r"[^A-Za-z0-9]", lambda found: f"-{ord(found[0]):x}-", name)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*" ', r"<svg \1", svg)
    svg = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*" ', r"<svg \1", svg)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
