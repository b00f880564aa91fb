"""The dissertation's tables and figures, with the numbers of one's own runs beside.

`dissertation.json` holds the dissertation's numbers. Each row of a table or point of a figure names
its arm: the settings that runs must have to stand there, * stands for any text. Its values are null
where the text gives none. What a run has unlike the dissertation is written below the table.
"""

import json
from collections import defaultdict
from fnmatch import fnmatchcase

from report.results import DATA_SETS, DISSERTATION, differing, in_words
from report.tables import Notes, spread, table

TABLES = DISSERTATION["tables"]


# ---------------------------------------------------------------- which runs belong into a row
def lengths(results):
    """{"usual", "equal time", "long": number of epochs}, without those that there are not.

    They are 100, 125 and 1,000, in smaller studies what stands for them. Of equal time is what
    trains for as much longer as the generation takes, at most for twice as long.
    """
    epochs = sorted({result.settings.get("epochs") or 0 for result in results} - {0})
    usual = 100 if 100 in epochs else min(epochs, default=None)
    named = {"usual": usual}
    longer = [number for number in epochs if number > usual]
    if longer:
        named["long"] = 1000 if 1000 in longer else longer[-1]
        if longer[0] <= 2 * usual:
            named["equal time"] = longer[0]
    return named


def fits(value, wanted):
    """Whether a setting has the value that a row asks for."""
    return value == wanted or isinstance(wanted, str) and fnmatchcase(str(value), wanted)


def select(results, arm):
    """The Results of an arm of dissertation.json."""
    supervised = arm["method"] == "supervised"
    kind = [one for one in results if (one.settings["method"] == "supervised") == supervised]
    wanted = {"views": 1, "both_generated": False, "label": "", "length": "usual"} | arm
    wanted["epochs"] = lengths(kind).get(wanted.pop("length"), 0)
    return [one for one in kind if all(fits(one.facts.get(k, ""), wanted[k]) for k in wanted)]


def results_for(key, results):
    """The Results that may stand in a table: those of its data, else of other data if it may."""
    about = TABLES[key]
    own = [result for result in results if result.data.study == about["data"]]
    if own or "other_data" not in about:
        return own
    return [result for result in results if not result.data.study]


def is_own(key, results):
    """Whether these runs are on the data of the dissertation's table."""
    return all(result.data.study == TABLES[key]["data"] for result in results)


def entries(results, arm, column):
    """Lists of Results, one list for each set of equal settings, for an arm and a column.

    column: evaluation and metric, such as "linear top1". Results of the published protocol come
    first; those of cached features stand in only where there are none.
    """
    if arm is None:
        return []
    evaluation, metric = column.split()
    if arm["method"] == "supervised":
        evaluation = "supervised"
    groups = defaultdict(list)
    for result in select(results, arm):
        if result.evaluation == evaluation and metric in result.values:
            groups[result.cached, json.dumps(result.facts, sort_keys=True)].append(result)
    cached = all(cached for cached, _ in groups)
    return [group for (was_cached, _), group in groups.items() if was_cached == cached]


def accuracies(key):
    """The columns of a table that come from evaluations. (Table 6 has others, behind its first.)"""
    return [column for column in TABLES[key]["columns"] if len(column[1].split()) == 2]


def has_result(key, results):
    """Whether a table has a number of ours; on other data a baseline alone does not count."""
    chosen = results_for(key, results)
    for row in TABLES[key]["rows"]:
        generated = row["arm"] and row["arm"].get("strategy") not in ("none", "real", None)
        if generated or is_own(key, chosen):
            if any(entries(chosen, row["arm"], column) for _, column in accuracies(key)):
                return True
    return False


# ---------------------------------------------------------------- what differs
def unlike(result, key, row):
    """How a run differs from what the dissertation's row states: ["resnet10", "2 epochs", ...]."""
    about, arm = TABLES[key], row["arm"]
    expected = about["setting"] | row.get("setting", {})
    own = result.data.study == about["data"]
    words = [] if own else [f"other data: {result.data.name}"]
    words += result.data.lacks
    for name, value in expected.items():
        if result.settings.get(name, value) not in (None, value):
            words.append(in_words(name, result.settings[name]))
    if result.settings.get("optimizer", "published") != "published":
        words.append(result.settings["optimizer"])
    if result.cached:
        words.append("cached features")
    if result.data.study and result.val not in (None, DATA_SETS[result.data.study]["val"]):
        words.append(f"{result.val:,} validation images")
    stated = {"mask": "center"} | expected | arm
    for name, value in sorted(result.making.items()):
        if value != stated.get(name) and (name != "label" or "label" not in arm):
            words.append(in_words(name, value))
    return words


def ours(key, row, column, results):
    """[{"values by seed", "unlike"}] of our numbers for a cell, one for each set of settings.

    unlike: what the runs have unlike the row, and unlike the other sets.
    """
    groups = entries(results, row["arm"], column)
    telling = differing([group[0].facts for group in groups])
    cells = []
    for group in groups:
        facts = group[0].facts
        words = unlike(group[0], key, row)
        words += [in_words(name, facts[name]) for name in telling if name in facts]
        values = {result.seed: result.values[column.split()[1]] for result in group}
        cells.append({"values by seed": values, "unlike": list(dict.fromkeys(words))})
    return cells


def here(key, row, column, results, notes):
    """The cell of our numbers: '61.00 ± 1.00 (3) [a]', several separated by a slash."""
    texts = []
    for cell in ours(key, row, column, results):
        texts.append(spread(list(cell["values by seed"].values())) + notes.mark(cell["unlike"]))
    return " / ".join(texts)


# ---------------------------------------------------------------- tables
def shown(value):
    """A number of the dissertation; a dash where it gives none."""
    return "–" if value is None else str(value)


def two_columns(columns):
    """The header of a table with the dissertation's number and ours for each quantity."""
    header = [""]
    for name, _ in columns:
        header += [f"{name}\ndissertation", f"{name}\nhere"]
    return header


def dissertation_table(key, results, everything=False):
    """(text, Markdown) of one table or figure.

    Columns without a number of ours and rows without any number only with `everything`.
    """
    about = TABLES[key]
    chosen = results_for(key, results)
    columns = []
    for number, (_, column) in enumerate(about["columns"]):
        filled = any(entries(chosen, row["arm"], column) for row in about["rows"])
        if everything or filled:
            columns.append(number)
    notes = Notes()
    with_text = any("text" in row for row in about["rows"])
    header = two_columns([about["columns"][number] for number in columns])
    header += ["dissertation's text"] * with_text
    rows = []
    for row in about["rows"]:
        cells = [row["name"]]
        for number in columns:
            column = about["columns"][number][1]
            cells += [shown(row["values"][number]), here(key, row, column, chosen, notes)]
        if everything or "text" in row or set(cells[1:]) - {"–", ""}:
            rows.append(cells + [row.get("text", "")] * with_text)
    below = [about["note"]] if "note" in about else []
    if not is_own(key, chosen):
        names = ", ".join(sorted({result.data.name for result in chosen}))
        below.append(
            f"Here: {names}, other data than the dissertation's; the numbers do not compare."
        )
    return table(about["title"], header, rows, below + notes.lines())


def table_as_json(key, results):
    """[{row, column, dissertation, here: [{values by seed, unlike}]}] of the filled cells."""
    chosen = results_for(key, results)
    cells = []
    for row in TABLES[key]["rows"]:
        for (name, column), value in zip(accuracies(key), row["values"], strict=False):
            if numbers := ours(key, row, column, chosen):
                where = {"row": row["name"], "column": name, "dissertation": value}
                cells.append(where | {"here": numbers})
    return cells


# ---------------------------------------------------------------- Table 6
def cost_cells(measured):
    """[FID, SSIM, ms, millions of parameters, ms in batches] of a row of a cost.json."""
    cells = []
    for key, digits in {
        "fid": 2,
        "ssim": 3,
        "latency_ms": 2,
        "parameters": 2,
        "batch_ms": 2,
    }.items():
        value = measured.get(key)
        if value is not None and key == "parameters":
            value = value / 1e6
            digits = 0 if value >= 100 else 2
        cells.append("" if value is None else f"{value:.{digits}f}")
    return cells


def measured_on(cost):
    """[sentence] that says where the rows of a cost.json were measured, one for each device."""
    images = defaultdict(set)
    for row in cost.get("rows", {}).values():
        images[row["device"]].add(row["images"])
    sentences = []
    for device in sorted(images):
        numbers = ", ".join(map(str, sorted(images[device])))
        sentences.append(
            f"Measured on {device} with {numbers} images; Frechet distance in "
            f"{cost['features']['features']} features."
        )
    return sentences


def cost_table(cost, results=(), everything=False):
    """Table 6 from the content of a cost.json, with the top-1 of `results`: (text, Markdown).

    Where the numbers do not compare with those of Table 6 they stand in a table of their own.
    """
    about, measured = TABLES["table6"], cost.get("rows", {})
    if measured and not everything and not has_result("table6", results):
        if cost["features"]["features"] != "inception":
            header = ["", "Frechet distance", "SSIM", "ms an image", "M parameters"]
            rows = [[name, *cost_cells(row)] for name, row in measured.items()]
            title = "Mirrors: distance from the originals, and cost"
            return table(title, [*header, "ms in batches"], rows, measured_on(cost))
    chosen = results_for("table6", results)
    notes = Notes()
    strategies = {measured[name]["strategy"]: name for name in reversed(measured)}
    names = {}  # of the measured row for a row of Table 6
    for row in about["rows"]:
        names[row["name"]] = row["cost"] if row["cost"] in measured else strategies.get(row["cost"])
    own = [{"name": name, "arm": None, "values": [None] * 5} for name in measured]
    rows = []
    for row in [*about["rows"], *[row for row in own if row["name"] not in names.values()]]:
        name = names.get(row["name"], row["name"])
        cells = [here("table6", row, "linear top1", chosen, notes)]
        cells += cost_cells(measured.get(name, {}))
        if everything or name or cells[0] or row["values"][0] is not None:
            pairs = zip(row["values"], cells, strict=False)
            both = [cell for value, number in pairs for cell in (shown(value), number)]
            rows.append([row["name"], *both, cells[-1]])
    header = [*two_columns(about["columns"]), "ms in batches\nhere"]
    below = [about["note"], *measured_on(cost)]
    tables = [table(about["title"], header, rows, below + notes.lines())]
    ratios = cost.get("ratios", {})
    if ratios or everything:
        rows = []
        for key, (name, value) in about["ratios"].items():
            rows.append([name, shown(value), f"{ratios[key]:.2g}" if key in ratios else ""])
        tables.append(table("Ratios of section 5.6", ["", "dissertation", "here"], rows))
    return tuple("\n\n".join(texts) for texts in zip(*tables, strict=True))
