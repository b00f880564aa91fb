"""Tables in Markdown, numbers with their spread, and notes below a table.

Used by report/arms.py, report/published.py and report/figures.py.
"""

import textwrap
from statistics import fmean, stdev

WIDTH = 100  # characters of a line, where it can be kept


def spread(values):
    """'68.70 ± 0.20 (3)': mean, sample standard deviation and number; of one value just itself."""
    mean = f"{fmean(values):.2f}"
    n = len(values)
    return mean if n == 1 else f"{mean} ± {stdev(values):.2f} ({n})"


def half_width(values):
    """Half the width of the 95 % interval of a mean, by the t distribution; None of one value."""
    from scipy.stats import t

    n = len(values)
    if n == 1:
        return None
    return float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5


def interval(values):
    """'+2.00 ± 0.31 (3)': mean difference, half its 95 % interval, number of differences."""
    half = "" if len(values) == 1 else f" ± {half_width(values):.2f}"
    return f"{fmean(values):+.2f}{half} ({len(values)})"


def mark(remarks, notes):
    """' [1]' for a list of remarks, '' for none. notes: {text: its number}, to which they go."""
    if not remarks:
        return ""
    number = notes.setdefault(", ".join(remarks), len(notes) + 1)
    return f" [{number}]"


def table(title, header, rows, sentences=(), notes=(), *, keys=1, together=1):
    """Markdown of a table that can be read as it is, in parts of at most WIDTH characters a line.

    rows: lists of strings. sentences: stand below it, before the notes of `mark`. keys: how many
    columns every part begins with; the others come `together` at a time.
    """
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * (width - 1) + ":" for width in widths]
    rules[0] = "-" * widths[0]
    lines.insert(1, rules)
    parts = []
    for first in range(keys, len(header), together):
        group = range(first, first + together)
        wider = parts and [*parts[-1], *group]
        if not parts or 1 + sum(widths[c] + 3 for c in wider) > WIDTH:
            parts.append([*range(keys)])
        parts[-1] += group
    text = [f"### {title}"]
    for part in parts:
        text.append("")
        for line in lines:
            cells = [line[c].rjust(widths[c]) for c in part]
            cells[0] = line[0].ljust(widths[0])
            text.append(f"| {' | '.join(cells)} |")
    numbered = [f"[{notes[note]}] {note}." for note in notes]
    for sentence in [*sentences, *numbered]:
        text += ["", textwrap.fill(sentence, WIDTH, break_long_words=False)]
    return "\n".join(text)
