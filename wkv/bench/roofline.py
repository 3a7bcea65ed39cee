"""A roofline plot: the measured speeds below the limit set by the memory bandwidth."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wkv.bench.rounds import Measured, Result
from wkv.errors import InputError, MissingExtraError
from wkv.files import checked_destination

SUFFIXES = (".png", ".svg", ".pdf")

ROOF, DECODE, PREFILL, QUIET = "#222222", "#1f6fb4", "#d1632a", "#767676"
"""Colors that have enough contrast on white, and that color-blind readers can distinguish."""

NEAR = 14
"""Distance in points (1/72 inch) within which two labels would overlap."""


def picture_path(wanted: str | Path) -> Path:
    """Return the path of a plot, after checking it before anything is measured.

    Raises:
        InputError: if the file format is not supported, or the folder is missing.
        MissingExtraError: if matplotlib is not installed.
    """
    path = checked_destination(wanted)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{wanted}: the suffix of a plot must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
            f"this one is {path.suffix or 'missing'}; use a name such as speed.png"
        )
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "plots require matplotlib, which is not installed; run: pip install matplotlib"
        )
    return path


def draw(measured: Measured, path: Path, *, title: str, subtitle: str) -> None:
    """Plot all results over the operations per byte, below the memory limit.

    Args:
        measured: the results.
        path: path of the plot, as returned by `picture_path`.
        title: a description of the model.
        subtitle: a description of the machine and the method.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log")
    _roof(axes, measured)
    _decode(axes, [result for result in measured.results if result.task.kind == "decode"])
    _prefill(axes, [result for result in measured.results if result.task.kind == "prefill"])
    _scales(axes, measured)
    axes.set_title(f"{subtitle}", fontsize=9, color=QUIET, loc="left")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def _roof(axes: Any, measured: Measured) -> None:
    """Plot the limit for engines that read all weights from memory."""
    places = [result.operations_per_byte for result in measured.results]
    speeds = [result.tokens_per_second for result in measured.results]
    left, right = min(places) / 2, max(places) * 5
    top, bottom = max(speeds) * 3, min(speeds) / 2.2
    slope = measured.stream / measured.costs.operations  # tokens per second / operations per byte
    bottom = min(bottom, left * slope)
    ends = (left, right)
    line = [place * slope for place in ends]
    axes.plot(ends, line, color=ROOF, linewidth=1.6, zorder=2)
    axes.fill_between(ends, line, max(top, line[1]), color=ROOF, alpha=0.05, linewidth=0, zorder=1)
    axes.set(xlim=ends, ylim=(bottom, top))
    at = (left * min(right, top / slope)) ** 0.5
    axes.annotate(
        f"memory: {measured.stream / 1e9:.1f} GB/s",
        (at, at * slope),
        xytext=(-4, 5),
        textcoords="offset points",
        rotation=_angle(axes),
        rotation_mode="anchor",
        ha="center",
        va="bottom",
        color=ROOF,
    )


def _angle(axes: Any) -> float:
    """Return the approximate angle in degrees of a proportional line in the plot."""
    from math import atan2, degrees, log

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = axes.figure.get_size_inches()
    across, up = width * 0.8 / log(right / left), height * 0.72 / log(top / bottom)
    return degrees(atan2(up, across))


def _decode(axes: Any, results: list[Result]) -> None:
    """Plot a dot for each decoding batch, or a ring if zeros were not skipped."""
    for result in results:
        dense = not result.task.skip_zeros
        place, speed = result.operations_per_byte, result.tokens_per_second
        axes.plot(
            place,
            speed,
            "o",
            markersize=8,
            color=DECODE,
            markerfacecolor="white" if dense else DECODE,
            zorder=4 if dense else 5,
        )
        if dense:
            continue
        text = f"batch {result.task.rows}\n{_rounded(speed)} tok/s"
        text += f" ({result.share:.0%} of the limit)" if result.task.rows == 1 else ""
        _label(axes, text, place, speed, DECODE, "below")
    shown = [("decode", DECODE)]
    if any(not result.task.skip_zeros for result in results):
        shown.append(("decode, zeros not skipped", "white"))
    for name, face in shown:
        axes.plot([], [], "o", color=DECODE, markerfacecolor=face, label=name, markersize=8)


def _prefill(axes: Any, results: list[Result]) -> None:
    """Plot a square for each prompt length; overlapping squares share a label."""
    for result in results:
        place, speed = result.operations_per_byte, result.tokens_per_second
        axes.plot(place, speed, "s", markersize=7, color=PREFILL, zorder=4)
    for group in _overlapping(axes, results):
        speeds = sorted(result.tokens_per_second for result in group)
        names = " and ".join(str(result.task.tokens) for result in group)
        text = "–".join(sorted({_rounded(speeds[0]), _rounded(speeds[-1])}, key=len))
        middle = (speeds[0] * speeds[-1]) ** 0.5
        place = max(result.operations_per_byte for result in group)
        _label(axes, f"{names} tokens\n{text} tok/s", place, middle, PREFILL, "right")
    axes.plot([], [], "s", color=PREFILL, label="prefill", markersize=7)


def _overlapping(axes: Any, results: list[Result]) -> list[list[Result]]:
    """Group results whose two-line labels next to the points would overlap."""
    groups: list[list[Result]] = []
    points = 72 * axes.figure.get_size_inches()[1] / axes.figure.bbox.height
    for result in results:
        at = result.operations_per_byte, result.tokens_per_second
        here = points * axes.transData.transform(at)
        if groups:
            last = groups[-1][-1]
            at = last.operations_per_byte, last.tokens_per_second
            across, up = abs(here - points * axes.transData.transform(at))
            if across < 5 * NEAR and up < 2 * NEAR:
                groups[-1].append(result)
                continue
        groups.append([result])
    return groups


def _label(axes: Any, text: str, place: float, speed: float, color: str, side: str) -> None:
    """Add a label next to a point: to the right of it, or below."""
    axes.annotate(
        text,
        (place, speed),
        xytext=(9, 0) if side == "right" else (7, -4),
        textcoords="offset points",
        ha="left",
        va="center" if side == "right" else "top",
        fontsize=8.5,
        color=color,
        linespacing=1.15,
    )


def _scales(axes: Any, measured: Measured) -> None:
    """Format both axes, the GFLOP/s axis on the right, the grid and the legend."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    giga = measured.costs.operations / 1e9
    right = axes.secondary_yaxis("right", functions=(lambda y: y * giga, lambda y: y / giga))
    right.set_ylabel("GFLOP/s", color=QUIET)
    right.tick_params(colors=QUIET, which="both")
    axes.set_xlabel("operations per byte read (weights once per pass, and the states)")
    axes.set_ylabel("tokens per second, over all rows")
    for axis in (axes.xaxis, axes.yaxis, right.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    axes.legend(loc="lower right", frameon=False)


def _rounded(speed: float) -> str:
    """Format a speed with three digits, or with all integer digits if there are more."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
