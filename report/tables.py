"""Tables as plain text and as Markdown, numbers with their spread, and notes below a table."""

import string
from statistics import fmean, stdev


def spread(values):
    """'68.70 ± 0.20 (3)': mean, sample standard deviation and number; of one value just itself."""
    if not values:
        return ""
    mean = f"{fmean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {stdev(values):.2f} ({len(values)})"


def half_width(values):
    """Half the width of the 95 % interval of a mean, by the t distribution; None of one value."""
    from scipy.stats import t

    n = len(values)
    if n == 1:
        return None
    return float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5


def interval(values):
    """'+2.00 ± 0.31 (3)': mean difference, half its 95 % interval, number of differences."""
    mean = f"{fmean(values):+.2f}"
    if len(values) == 1:
        return f"{mean} (1)"
    return f"{mean} ± {half_width(values):.2f} ({len(values)})"


class Notes:
    """Notes below a table: equal texts share one letter."""

    def __init__(self):
        self.letters = {}

    def mark(self, remarks):
        """' [a]' for a list of remarks; '' for none."""
        if not remarks:
            return ""
        text = ", ".join(remarks)
        letters = string.ascii_lowercase
        number = self.letters.setdefault(text, len(self.letters))
        name = letters[number % 26] * (number // 26 + 1)
        return f" [{name}]"

    def lines(self):
        """['[a] ...', '[b] ...']."""
        found = []
        for text in self.letters:
            mark = self.mark([text]).strip()
            found.append(f"{mark} {text}.")
        return found


def table(title, header, rows, notes=()):
    """(plain text, Markdown) of one table.

    header: names of the columns, each with one line or two. rows: lists of strings.
    notes: sentences below it.
    """
    stacked = [name.rpartition("\n")[::2] for name in header]
    heads = [list(line) for line in zip(*stacked, strict=True) if any(line)]
    widths = []
    for column in range(len(header)):
        widths.append(max(len(row[column]) for row in [*heads, *rows]))

    def line(cells):
        padded = [cells[0].ljust(widths[0])]
        for cell, width in zip(cells[1:], widths[1:], strict=True):
            padded.append(cell.rjust(width))
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    text = [title, rule, *map(line, heads), rule, *map(line, rows), rule, *notes]
    flat = [name.replace("\n", ": ") for name in header]
    alignment = ["---", *["---:"] * (len(header) - 1)]
    markdown = [f"### {title}", ""]
    for cells in [flat, alignment, *rows]:
        escaped = [cell.replace("|", "\\|") for cell in cells]
        markdown.append("| " + " | ".join(escaped) + " |")
    for note in notes:
        markdown += ["", note]
    return "\n".join(text), "\n".join(markdown)
