"""Figures as rows of a Markdown table."""

import statistics
from dataclasses import dataclass, field

# Unit: what a value is divided by, and how many digits after the point are worth reading.
UNITS = {"ms": (1e-3, 2), "s": (1.0, 2), "MiB": (1 << 20, 1), "MB": (1e6, 2), "": (1.0, 0)}
HEADER = ("Figure", "Bound", "Median", "Min", "Max", "Runs", "Beside it", "Its median", "Ratio (min to max)", "Held")


@dataclass
class Row:
    """One figure: its values, and those of a peer measured in the same rounds."""

    figure: str
    unit: str
    values: list
    bound: float = None
    peer: str = ""
    peer_values: list = field(default_factory=list)

    def verdict(self):
        """Whether the bound is held: by all runs, by the median alone, or not."""
        if self.bound is None:
            return ""
        if max(self.values) <= self.bound:
            return "yes"
        return "by the median" if statistics.median(self.values) <= self.bound else "**no**"

    def missed(self):
        """Whether not even the median keeps to the bound."""
        return self.bound is not None and statistics.median(self.values) > self.bound

    def cells(self):
        """The cells below [`HEADER`]."""
        median, least, most = statistics.median(self.values), min(self.values), max(self.values)
        bound = "" if self.bound is None else self._text(self.bound)
        ours = [bound, *map(self._text, (median, least, most)), str(len(self.values))]
        theirs = [self.peer, self._text(statistics.median(self.peer_values)), self._ratio()] if self.peer else [""] * 3
        return [self.figure, *ours, *theirs, self.verdict()]

    def _ratio(self):
        """Round by round, so that what slows a whole round does not count."""
        ratios = [ours / theirs for ours, theirs in zip(self.values, self.peer_values) if theirs > 0]
        if not ratios:
            return ""
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    def _text(self, value):
        scale, digits = UNITS[self.unit]
        return f"{value / scale:.{digits}f} {self.unit}".rstrip()


def table(rows):
    """The rows as a Markdown table."""
    lines = [HEADER, ["---", *["---:"] * 5, "---", *["---:"] * 2, "---"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def replace_section(text, section, begin, end):
    """`text` with `section` between the two marks, each of which is there once."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise RuntimeError(f"the marks {begin} and {end} are not there once each, in this order")
    head, tail = text.split(begin)[0], text.split(end)[1]
    return f"{head}{begin}\n{section.strip()}\n{end}{tail}"
