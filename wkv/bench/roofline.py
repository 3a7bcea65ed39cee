"""A roofline picture: what was measured, under the limit that the memory sets."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wkv.bench.rounds import Measured, Result
from wkv.checkpoint.atomic_write import destination
from wkv.errors import InputError, MissingExtraError

SUFFIXES = (".png", ".svg", ".pdf")

ROOF, DECODE, PREFILL, QUIET = "#222222", "#1f6fb4", "#d1632a", "#767676"
"""Colours: dark enough to read on white, and different for those who do not see all colors."""

NEAR = 14
"""Points of the picture, at 72 to the inch, within which two labels would touch."""


def picture_path(wanted: str | Path) -> Path:
    """Where a picture goes, checked before anything is measured.

    Raises:
        InputError: if it is no kind of picture that can be drawn, or its folder is missing.
        MissingExtraError: if matplotlib is not installed.
    """
    path = destination(wanted)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{wanted}: a plot ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, this one in "
            f"{path.suffix or 'nothing'}; give a name such as speed.png"
        )
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "a plot is drawn by matplotlib, which is not installed; run: pip install matplotlib"
        )
    return path


def draw(measured: Measured, path: Path, *, title: str, subtitle: str) -> None:
    """Draw all results over the operations per byte, under the roof of the memory.

    Args:
        measured: what to draw.
        path: of the picture, as `picture_path` gave it.
        title: what was measured.
        subtitle: on what, and how.
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
    """The line that no engine passes, if it reads all from memory."""
    places = [result.operations_per_byte for result in measured.results]
    speeds = [result.tokens_per_second for result in measured.results]
    left, right = min(places) / 2, max(places) * 5
    top, bottom = max(speeds) * 3, min(speeds) / 2.2
    slope = measured.stream / measured.costs.operations  # tokens per second and operation per byte
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
    """Degrees at which a line of proportion rises in the picture, about."""
    from math import atan2, degrees, log

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = axes.figure.get_size_inches()
    across, up = width * 0.8 / log(right / left), height * 0.72 / log(top / bottom)
    return degrees(atan2(up, across))


def _decode(axes: Any, results: list[Result]) -> None:
    """A dot for each batch; a ring where zeros were read too."""
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
        told = f"batch {result.task.rows}\n{_rounded(speed)} tok/s"
        told += f" ({result.share:.0%} of the roof)" if result.task.rows == 1 else ""
        _label(axes, told, place, speed, DECODE, "below")
    shown = [("decode", DECODE)]
    if any(not result.task.skip_zeros for result in results):
        shown.append(("decode, zeros read too", "white"))
    for name, face in shown:
        axes.plot([], [], "o", color=DECODE, markerfacecolor=face, label=name, markersize=8)


def _prefill(axes: Any, results: list[Result]) -> None:
    """A square for each length of prompt; those that lie on each other share a label."""
    for result in results:
        place, speed = result.operations_per_byte, result.tokens_per_second
        axes.plot(place, speed, "s", markersize=7, color=PREFILL, zorder=4)
    for group in _touching(axes, results):
        speeds = sorted(result.tokens_per_second for result in group)
        names = " and ".join(str(result.task.tokens) for result in group)
        told = "–".join(sorted({_rounded(speeds[0]), _rounded(speeds[-1])}, key=len))
        middle = (speeds[0] * speeds[-1]) ** 0.5
        place = max(result.operations_per_byte for result in group)
        _label(axes, f"{names} tokens\n{told} tok/s", place, middle, PREFILL, "right")
    axes.plot([], [], "s", color=PREFILL, label="prefill", markersize=7)


def _touching(axes: Any, results: list[Result]) -> list[list[Result]]:
    """Results in groups whose labels, of two lines beside the points, would touch."""
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
    """Words beside a point: to the right of it, or below."""
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
    """Both axes, the one of GFLOP/s on the right, the grid and the legend."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    giga = measured.costs.operations / 1e9
    right = axes.secondary_yaxis("right", functions=(lambda y: y * giga, lambda y: y / giga))
    right.set_ylabel("GFLOP/s", color=QUIET)
    right.tick_params(colors=QUIET, which="both")
    axes.set_xlabel("operations per byte read (weights once a pass, and the states)")
    axes.set_ylabel("tokens per second, over all rows")
    for axis in (axes.xaxis, axes.yaxis, right.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    axes.legend(loc="lower right", frameon=False)


def _rounded(speed: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
