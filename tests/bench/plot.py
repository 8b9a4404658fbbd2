"""Time and memory over size, drawn with letters."""

import math
import statistics

from image import MIB
from report import size_text

WIDTH = 60


def over_size(series):
    """Two plots of `series`: by size, what each program used, the agent first."""
    programs = list(dict.fromkeys(name for used in series.values() for name in used))[:2]
    legend = ", ".join(f"{mark} {name.strip('`')}" for mark, name in zip("*o", programs))
    seconds, peaks = (_medians(series, programs, what) for what in ("seconds", "peak_bytes"))
    ticks = _decades(seconds)
    return "\n".join(
        [
            "```text",
            f"Time over size ({legend}), on a logarithmic axis: four times as long is {_columns(4, ticks)} columns",
            *_plot(seconds, ticks, math.log10, lambda tick: f"{tick:g} s"),
            "",
            f"Peak memory over size ({legend})",
            *_plot(peaks, range(0, int(_most(peaks)) + 5 * MIB, 5 * MIB), float, lambda tick: f"{tick // MIB} MiB"),
            "```",
        ]
    )


def _medians(series, programs, what):
    return {
        size: [statistics.median(getattr(run, what) for run in used[name]) for name in programs]
        for size, used in series.items()
    }


def _most(values):
    return max(value for row in values.values() for value in row)


def _decades(values):
    """Powers of ten around all values."""
    least = min(value for row in values.values() for value in row)
    return [10.0**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(_most(values))) + 1)]


def _columns(factor, ticks):
    """How far apart two values are on the logarithmic axis, the one so many times the other."""
    return round(math.log10(factor) / math.log10(ticks[-1] / ticks[0]) * WIDTH)


def _plot(values, ticks, scale, name):
    """A line for each size, with a mark for each program, and one for the axis."""
    first, last = scale(ticks[0]), scale(ticks[-1])

    def column(value):
        return round((scale(value) - first) / (last - first) * WIDTH)

    for size, row in values.items():
        line = [" "] * (WIDTH + 1)
        # The agent's mark last: where two fall together, it is the one that is seen.
        for mark, value in reversed(list(zip("*o", row))):
            line[column(value)] = mark
        yield f"{size_text(size):>8} |{''.join(line)}".rstrip()
    rule, names = ["-"] * (WIDTH + 1), [" "] * (WIDTH + 12)
    for tick in ticks:
        rule[column(tick)] = "+"
        names[column(tick) : column(tick) + len(name(tick))] = name(tick)
    yield f"{'':8} +{''.join(rule)}"
    yield f"{'':10}{''.join(names)}".rstrip()
