"""Tables in Markdown, numbers with their spread, and notes below a table. Used by the report."""

from statistics import fmean, stdev


def spread(values):
    """'68.70 ± 0.20 (3)': mean, sample standard deviation and number; of one value just itself."""
    mean = f"{fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.2f} ({len(values)})"


def half_width(values):
    """Half the width of the 95 % interval of a mean, by the t distribution; None of one value."""
    from scipy.stats import t

    n = len(values)
    return None if n == 1 else float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5


def interval(values):
    """'+2.00 ± 0.31 (3)': mean difference, half its 95 % interval, number of differences."""
    half = "" if len(values) == 1 else f" ± {half_width(values):.2f}"
    return f"{fmean(values):+.2f}{half} ({len(values)})"


def mark(remarks, notes):
    """' [1]' for a list of remarks, '' for none. notes: {text: its number}, to which they go."""
    if not remarks:
        return ""
    return f" [{notes.setdefault(', '.join(remarks), len(notes) + 1)}]"


def table(title, header, rows, sentences=(), notes=()):
    """Markdown of a table that can be read as it is.

    rows: lists of strings. sentences: stand below it, before the notes of `mark`.
    """
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rules = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    text = [f"### {title}", ""]
    for line in [header, rules, *rows]:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append(f"| {' | '.join(cells)} |")
    for sentence in [*sentences, *[f"[{notes[note]}] {note}." for note in notes]]:
        text += ["", sentence]
    return "\n".join(text)
