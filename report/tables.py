"""Tables: Markdown and numbers with their spread; the dissertation's tables with one's own numbers.

Used by 07, report/arms.py, report/figures.py and report/cost.py. `dissertation.json` holds the
dissertation's numbers. Each row of a table or point of a figure names its arm: the settings that
runs must have to stand there, * stands for any text. Its values are null where the text gives none.
What a run has unlike the dissertation is written below the table.
"""

import json
import textwrap
from collections import defaultdict
from fnmatch import fnmatchcase
from statistics import fmean, stdev

from report.results import DISSERTATION, differing, in_words, of_equal_time

WIDTH = 100  # characters of a line, where it can be kept
TABLES = DISSERTATION["tables"]


# ---------------------------------------------------------------- any table
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


# ---------------------------------------------------------------- which runs belong into a row
def lengths(results):
    """{"usual", "equal time", "long": number of epochs}, 0 where there are none.

    They are 100, 125 and 1,000, in smaller studies what stands for them.
    """
    epochs = sorted({result.settings["epochs"] or 0 for result in results} - {0})
    usual = 100 if 100 in epochs else min(epochs, default=None)
    longer = [number for number in epochs if number > usual]
    equal = [number for number in longer if of_equal_time(number, usual)]
    return {
        "usual": usual,
        "equal time": min(equal, default=0),
        "long": 1000 if 1000 in longer else max(longer, default=0),
    }


def agrees(value, wanted):
    """Whether a setting has the value that a row asks for."""
    return value == wanted or isinstance(wanted, str) and fnmatchcase(str(value), wanted)


def select(results, arm):
    """The Results of an arm of dissertation.json."""
    supervised = arm["method"] == "supervised"
    kind = [one for one in results if (one.settings["method"] == "supervised") == supervised]
    wanted = {"views": 1, "both_generated": False, "label": "", "length": "usual"} | arm
    wanted["epochs"] = lengths(kind)[wanted.pop("length")]
    selected = []
    for result in kind:
        facts = result.facts
        if all(agrees(facts.get(name, ""), value) for name, value in wanted.items()):
            selected.append(result)
    return selected


def results_for(about, results):
    """The Results that may stand in a table: those of its data, or, where it says so, those of
    other data if there are some of its strategy and a pretraining fits one of its rows.
    """
    own = [result for result in results if result.data.study == about["data"]]
    other = [result for result in results if not result.data.study]
    strategies = {result.settings["strategy"] for result in other}
    if own or about.get("other_data") not in strategies:
        return own
    for row in about["rows"]:
        if row["arm"]["method"] != "supervised" and select(other, row["arm"]):
            return other
    return []


def entries(results, arm, column):
    """Lists of Results, one list for each set of equal settings, for an arm and a column.

    column: evaluation and metric, such as "linear top1". Results of cached features stand in only
    where there are no others.
    """
    if arm is None:
        return []
    evaluation, _, metric = column.partition(" ")
    if arm["method"] == "supervised":
        evaluation = "supervised"
    groups = defaultdict(list)
    for result in select(results, arm):
        if result.evaluation == evaluation and metric in result.values:
            groups[result.cached, json.dumps(result.facts, sort_keys=True)].append(result)
    best = min((cached for cached, _ in groups), default=False)
    return [group for (cached, _), group in groups.items() if cached == best]


# ---------------------------------------------------------------- the cells
def unlike(result, about, row):
    """How a run differs from what the dissertation's row states: ["resnet10", "2 epochs", ...]."""
    data = result.data
    words = []
    if data.study != about["data"]:
        words.append(f"other data: {data.name}")
    if data.lacks:
        words.append(data.lacks)
    setting = {"optimizer": "published"} | about["setting"] | row.get("setting", {})
    stated = {"mask": "center"} | setting | row["arm"]
    facts = {name: result.settings.get(name) for name in setting} | result.making
    for name, value in facts.items():
        if value is not None and not agrees(value, stated.get(name)):
            words.append(in_words(name, value))
    if result.cached:
        words.append("cached features")
    return words


def ours(results, about, row, column):
    """[{"values by seed", "unlike"}] of our numbers for a cell, one for each set of settings.

    unlike: what the runs have unlike the row, and unlike the other sets.
    """
    groups = entries(results, row["arm"], column)
    telling = differing([group[0].facts for group in groups])
    _, _, metric = column.partition(" ")
    cells = []
    for group in groups:
        facts = group[0].facts
        words = unlike(group[0], about, row)
        words += [in_words(name, facts[name]) for name in telling if name in facts]
        cell = {
            "values by seed": {result.seed: result.values[metric] for result in group},
            "unlike": list(dict.fromkeys(words)),
        }
        cells.append(cell)
    return cells


def fill(about, results):
    """{row: {column: {"dissertation": value, "here": see `ours`}}} of a table."""
    chosen = results_for(about, results)
    rows = {}
    for row in about["rows"]:
        cells = {}
        for (name, column), value in zip(about["columns"], row["values"], strict=True):
            here = ours(chosen, about, row, column)
            measured = row.get("measured", {}).get(column)
            if measured is not None:
                here = [{"values by seed": {"": measured}, "unlike": []}]
            cells[name] = {"dissertation": row.get("text", value), "here": here}
        rows[row["name"]] = cells
    return rows


# ---------------------------------------------------------------- the dissertation's tables
def dissertation_table(about, rows, everything=False):
    """Markdown of one table or figure. rows: see `fill`.

    Columns without a number of ours and rows without any number only with `everything`; "" where
    no column is left.
    """
    columns = []
    for name, _ in about["columns"]:
        if everything or any(cells[name]["here"] for cells in rows.values()):
            columns.append(name)
    if not columns:
        return ""
    header = ["dissertation, then here"]
    for name in columns:
        header += [name, "here"]
    lines = []
    notes = {}
    for row, cells in rows.items():
        line = [row]
        for name in columns:
            here = []
            for cell in cells[name]["here"]:
                values = list(cell["values by seed"].values())
                here.append(spread(values) + mark(cell["unlike"], notes))
            published = cells[name]["dissertation"]
            line.append("–" if published is None else str(published))
            line.append(" / ".join(here))
        if everything or set(line[1:]) - {"–", ""}:
            lines.append(line)
    remarks = about.get("notes", ())
    return table(about["title"], header, lines, remarks, notes, together=2)


def table6(cost, everything=False):
    """Table 6 with the rows of a cost.json as "measured" in those of their names, or in further
    ones. Frechet distances in other features than Inception's do not compare with the
    dissertation's: then the mirrors stand in a table of their own, but with `everything`.
    """
    about = TABLES["table6"]
    rows = {row["cost"] or row["name"]: row for row in about["rows"]}
    notes = list(about["notes"])
    ratios = cost.get("ratios", {})
    for key, (name, value) in about["ratios"].items():
        here = f"{ratios[key]:.2g}" if key in ratios else "–"
        notes.append(f"{name}: {value}, here {here}.")
    if cost:
        features = cost["features"]["features"]
        if features != "inception" and not everything:
            about = about | {"title": "Mirrors: distance from the originals, and cost"}
            rows = {}
            notes = []
        measured = cost["rows"].values()
        devices = sorted({f"{row['device']} ({row['images']} images)" for row in measured})
        notes.append(f"Measured on {', '.join(devices)}; Frechet distance in {features} features.")
        if shares := [row["class_of_originals"] for row in measured if "class_kept" in row]:
            notes.append(f"A linear layer names the class of {max(shares):.1f} % of the originals.")
    for name, row in cost.get("rows", {}).items():
        parameters = row.get("parameters")
        millions = parameters / 1e6 if parameters else None
        empty = {"name": name, "arm": None, "values": [None] * len(about["columns"])}
        rows[name] = rows.get(name, empty) | {"measured": row | {"parameters": millions}}
    return about | {"rows": list(rows.values()), "notes": notes}
