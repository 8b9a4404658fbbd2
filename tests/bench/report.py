"""Figures as rows of Markdown tables."""

import os
import statistics
from dataclasses import dataclass, field

# Unit: what a value is divided by, and how many digits after the point are worth reading.
UNITS = {"ms": (1e-3, 2), "s": (1.0, 2), "MiB": (1 << 20, 1), "MiB/s": (1 << 20, 2), "MB": (1e6, 2), "": (1.0, 0)}


@dataclass
class Row:
    """One figure: its values, and those of a peer measured in the same rounds.

    `bound` is the most that a value may be, `within` the range that its ratio to the peer's has to be in.
    """

    figure: str
    unit: str
    values: list
    bound: float = None
    peer: str = ""
    peer_values: list = field(default_factory=list)
    within: tuple = None

    HEADER = (
        *("Figure", "Bound", "Median", "Min", "Max", "Runs"),
        *("Beside it", "Its median", "Ratio (min to max)", "Held"),
    )
    ALIGNMENT = ("---", *["---:"] * 5, "---", *["---:"] * 2, "---")

    def checks(self):
        """What is bound, and how it came out."""
        if self.bound is not None:
            yield Check("", self.values, 0, self.bound)
        if self.within is not None:
            yield Check("", ratios(self.values, self.peer_values), *self.within)

    def cells(self):
        """The cells below the header."""
        spread = (statistics.median(self.values), min(self.values), max(self.values))
        ours = [self._bound(), *(text(value, self.unit) for value in spread), str(len(self.values))]
        theirs = [self.peer, text(statistics.median(self.peer_values), self.unit)] if self.peer else ["", ""]
        ratio = ratio_text(self.values, self.peer_values)
        return [self.figure, *ours, *theirs, ratio, " ".join(check.verdict() for check in self.checks())]

    def _bound(self):
        if self.within is not None:
            return "{:.2f} to {:.2f} of it".format(*self.within)
        return "" if self.bound is None else text(self.bound, self.unit)


@dataclass
class Transfer:
    """One transfer, and that of a peer measured in the same rounds: time, CPU seconds and peak memory of both.

    `most_time` and `most_cpu` are the most that our part of the peer's may be, `most_peak` is in bytes.
    """

    name: str
    used: list
    peer: str = ""
    peer_used: list = field(default_factory=list)
    most_time: float = None
    most_cpu: float = None
    most_peak: int = None

    HEADER = (
        *("Transfer", "Runs", "Beside it", "Time (min to max)", "Its time", "Ratio (min to max)"),
        *("CPU", "Its CPU", "Ratio (min to max)", "Peak", "Its peak", "Held"),
    )
    ALIGNMENT = ("---", "---:", "---", *["---:"] * 8, "---")

    def checks(self):
        """What is bound, and how it came out."""
        if self.most_time is not None:
            yield Check(f"time ≤ {self.most_time:.2f}", ratios(*self._both("seconds")), 0, self.most_time)
        if self.most_cpu is not None:
            yield Check(f"CPU ≤ {self.most_cpu:.2f}", ratios(*self._both("cpu_s")), 0, self.most_cpu)
        if self.most_peak is not None:
            yield Check(f"peak ≤ {text(self.most_peak, 'MiB')}", self._both("peak_bytes")[0], 0, self.most_peak)

    def cells(self):
        """The cells below the header."""
        (seconds, its_seconds), (cpu, its_cpu), (peak, its_peak) = map(self._both, ("seconds", "cpu_s", "peak_bytes"))
        spread = f"{median(seconds, 's')} ({min(seconds):.2f} to {max(seconds):.2f})"
        return [
            *(self.name, str(len(self.used)), self.peer),
            *(spread, median(its_seconds, "s"), ratio_text(seconds, its_seconds)),
            *(median(cpu, "s"), median(its_cpu, "s"), ratio_text(cpu, its_cpu)),
            *(median(peak, "MiB"), median(its_peak, "MiB")),
            "; ".join(f"{check.what}: {check.verdict()}" for check in self.checks()),
        ]

    def _both(self, what):
        return [[getattr(run, what) for run in runs] for runs in (self.used, self.peer_used)]


@dataclass
class Check:
    """Values that have to be within bounds."""

    what: str
    values: list
    least: float
    most: float

    def verdict(self):
        """Whether the bounds are held: by all runs, by the median alone, or not."""
        if all(self.least <= value <= self.most for value in self.values):
            return "yes"
        return "**no**" if self.is_missed() else "by the median"

    def is_missed(self):
        """Whether not even the median keeps to the bounds."""
        return not self.least <= statistics.median(self.values) <= self.most


def is_missed(rows):
    """Whether some bound is."""
    return any(check.is_missed() for row in rows for check in row.checks())


def ratios(ours, theirs):
    """Round by round, so that what slows a whole round does not count."""
    return [our / their for our, their in zip(ours, theirs) if their > 0]


def ratio_text(ours, theirs):
    """The median of the ratios, and how far they spread; nothing where there is no peer."""
    found = ratios(ours, theirs)
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else ""


def median(values, unit):
    """The median as text; nothing of nothing."""
    return text(statistics.median(values), unit) if values else ""


def text(value, unit):
    """A value with its unit."""
    scale, digits = UNITS[unit]
    return f"{value / scale:.{digits}f} {unit}".rstrip()


def table(rows):
    """Rows of one kind as a Markdown table."""
    lines = [rows[0].HEADER, rows[0].ALIGNMENT, *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def size_text(size):
    """A size as a person says it."""
    mib = size >> 20
    return f"{mib >> 10} GiB" if mib >= 1024 and mib % 1024 == 0 else f"{mib} MiB"


def write_section(path, section, begin, end):
    """Puts a section into a document between two marks, as a whole or not at all."""
    with open(path, encoding="utf-8") as file:
        text = replace_section(file.read(), section, begin, end)
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new, path)


def replace_section(document, section, begin, end):
    """`document` with `section` between the two marks, each of which is there once."""
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise RuntimeError(f"the marks {begin} and {end} are not there once each, in this order")
    head, tail = document.split(begin)[0], document.split(end)[1]
    return f"{head}{begin}\n{section.strip()}\n{end}{tail}"
