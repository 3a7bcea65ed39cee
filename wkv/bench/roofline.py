"""A roofline plot: the measured speeds below the limit set by the memory bandwidth."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wkv.bench.rounds import Measured, Result
from wkv.errors import InputError, MissingExtraError
from wkv.files import atomic_write, checked_destination

SUFFIXES = (".png", ".svg", ".pdf")

ROOF, DECODE, PREFILL, QUIET = "#222222", "#1f6fb4", "#d1632a", "#767676"
"""Colors that have enough contrast on white, and that color-blind readers can distinguish."""

SIDES = (
    (9, 0),
    (7, -5),
    (7, 5),
    (-9, 0),
    (-7, -5),
    (-7, 5),
    (0, -9),
    (0, 9),
    *((right, up * far) for far in (24, 48, 72) for right in (9, -9) for up in (-1, 1)),
)
"""Offsets of a label from its mark, in points (1/72 inch), in the order of preference."""

MARK = 7
"""Half of the size of a mark in pixels."""


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
    _marks(axes, measured.results)
    _scales(axes, measured)
    axes.set_title(f"{subtitle}", fontsize=9, color=QUIET, loc="left")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    _labels(axes, measured)
    kind = path.suffix[1:].lower()
    atomic_write(
        path, lambda file: figure.savefig(file, dpi=150, format=kind), error_type=InputError
    )


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


def _marks(axes: Any, results: Sequence[Result]) -> None:
    """Plot a dot for each decoding batch, a ring if zeros were not skipped, squares for prefill."""
    for result in results:
        _, mark, color, face = _style(result)
        axes.plot(*_place(result), mark, markersize=8, color=color, markerfacecolor=face, zorder=4)
    for name, mark, color, face in dict.fromkeys(map(_style, results)):
        axes.plot([], [], mark, markersize=8, color=color, markerfacecolor=face, label=name)


def _style(result: Result) -> tuple[str, str, str, str]:
    """Return the name of a result in the legend, its mark, color and face color."""
    if result.task.kind == "prefill":
        return "prefill", "s", PREFILL, PREFILL
    if result.task.skip_zeros:
        return "decode", "o", DECODE, DECODE
    return "decode, zeros not skipped", "o", DECODE, "white"


def _text(result: Result) -> str:
    """Return the label of a result: its size and speed."""
    task = result.task
    name = f"{task.tokens} tokens" if task.kind == "prefill" else f"batch {task.rows}"
    name += "" if task.skip_zeros else ", zeros not skipped"
    speed = f"{_rounded(result.tokens_per_second)} tok/s"
    limit = task.kind == "decode" and task.rows == 1 and task.skip_zeros
    return f"{name}\n{speed}" + (f" ({result.share:.0%} of the limit)" if limit else "")


def _labels(axes: Any, measured: Measured) -> None:
    """Write a label beside each mark, at the first of SIDES where it covers nothing."""
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()  # computes the positions of everything
    line = axes.lines[0]  # the roof
    ends = axes.transData.transform(line.get_xydata())
    dots = [ends[0] + (ends[1] - ends[0]) * step / 400 for step in range(401)]
    dots += [axes.transData.transform(_place(result)) for result in measured.results]
    taken = [Bbox.from_bounds(x - MARK, y - MARK, 2 * MARK, 2 * MARK) for x, y in dots]
    taken += [axes.get_legend().get_window_extent(), *(t.get_window_extent() for t in axes.texts)]
    for result in measured.results:
        tried = [_label(axes, result, side) for side in SIDES]
        boxes = [note.get_window_extent() for note in tried]
        inside = axes.get_window_extent()
        free = [
            not any(box.overlaps(other) for other in taken)
            and inside.containsx(box.x1)
            and inside.containsx(box.x0)
            and inside.containsy(box.y0)
            and inside.containsy(box.y1)
            for box in boxes
        ]
        chosen = free.index(True) if any(free) else 0
        taken.append(boxes[chosen])
        for number, note in enumerate(tried):
            if number != chosen:
                note.remove()


def _place(result: Result) -> tuple[float, float]:
    """Return the position of a result in the plot."""
    return result.operations_per_byte, result.tokens_per_second


def _label(axes: Any, result: Result, side: tuple[int, int]) -> Any:
    """Write the label of a result with an offset in points."""
    right, up = side
    return axes.annotate(
        _text(result),
        _place(result),
        xytext=side,
        textcoords="offset points",
        ha="left" if right > 0 else "right" if right < 0 else "center",
        va="bottom" if up > 0 else "top" if up < 0 else "center",
        fontsize=8.5,
        color=PREFILL if result.task.kind == "prefill" else DECODE,
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
