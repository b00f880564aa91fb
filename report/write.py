"""The report of a folder of runs: its own arms, then the dissertation's tables with numbers beside.

`dissertation.json` holds the dissertation's numbers. Each row of a table or point of a figure names
its arm: the settings that runs must have to stand there. Its values are null where the text gives
none. What a run has unlike the dissertation is written below the table, never passed over.
"""

import json
from collections import defaultdict
from pathlib import Path

from base import run
from report.arms import arms_of, arms_table, as_json, differences_table
from report.results import DATA_SETS, DISSERTATION, read_runs
from report.tables import Notes, spread, table

TABLES = DISSERTATION["tables"]


# ---------------------------------------------------------------- which runs belong into a row
def lengths(results):
    """{"usual", "equal time", "long": number of epochs}, without those that there are not.

    They are 100, 125 and 1,000, in smaller studies what stands for them. Of equal time is what
    trains for as much longer as the generation takes, at most for twice as long.
    """
    epochs = sorted({result.epochs for result in results if result.epochs})
    if not epochs:
        return {}
    usual = 100 if 100 in epochs else epochs[0]
    found = {"usual": usual}
    longer = [number for number in epochs if number > usual]
    if longer:
        found["long"] = 1000 if 1000 in longer else longer[-1]
        if longer[0] <= 2 * usual:
            found["equal time"] = longer[0]
    return found


def has_detail(result, wanted):
    """Whether one of the wanted details is among the run's; 'steer *' fits 'steer FILE'."""
    for detail in wanted:
        if detail in result.parts:
            return True
        start = detail.removesuffix("*")
        if start != detail and any(part.startswith(start) for part in result.parts):
            return True
    return False


def select(results, arm):
    """The Results of an arm of dissertation.json."""
    supervised = arm.get("supervised", False)
    same_kind = [result for result in results if result.supervised == supervised]
    epochs = lengths(same_kind).get(arm.get("length", "usual"))
    wanted = {"views": 1, "both_generated": False, "label": "true"} | arm
    for name in ("length", "supervised", "detail"):
        wanted.pop(name, None)
    if "pair" in wanted:
        wanted["pair"] = sorted(wanted["pair"])
    found = []
    for result in same_kind:
        equal = all(getattr(result, name) == value for name, value in wanted.items())
        if equal and result.epochs == epochs:
            if "detail" not in arm or has_detail(result, arm["detail"]):
                found.append(result)
    return found


def results_for(key, results):
    """The Results that may stand in a table: those of its data, else of other data if it may."""
    about = TABLES[key]
    own = [result for result in results if result.study == about["data"]]
    if own or "other_data" not in about:
        return own
    return [result for result in results if not result.study]


def entries(results, arm, column):
    """Lists of Results, one list for each set of equal settings, for an arm and a column.

    column: evaluation and metric, such as "linear top1". Results of the published protocol come
    first; those of cached features stand in only where there are none.
    """
    if arm is None:
        return []
    evaluation, metric = column.split()
    if arm.get("supervised"):
        evaluation = "supervised"
    groups = defaultdict(list)
    for result in select(results, arm):
        if result.evaluation == evaluation and metric in result.values:
            settings = [result.network, result.detail, result.settings]
            groups[result.cached, json.dumps(settings, sort_keys=True)].append(result)
    cached = all(cached for cached, _ in groups)
    return [group for (was_cached, _), group in groups.items() if was_cached == cached]


# ---------------------------------------------------------------- what differs
def in_words(setting, value):
    """A setting and its value, such as "32 px"."""
    words = {"network": f"{value}", "epochs": f"{value} epochs", "size": f"{value} px"}
    if setting == "epochs" and value == 1:
        return "1 epoch"
    return words.get(setting, f"{setting.replace('_', ' ')} {value}")


def unlike(result, key, row):
    """How a run differs from what the dissertation's row states: ["resnet10", "2 epochs", ...]."""
    about = TABLES[key]
    setting = about["setting"] | row.get("setting", {})
    found = []
    if result.study != about["data"]:
        found.append(f"other data: {result.data}")
    found += result.lacks
    for name, expected in setting.items():
        value = getattr(result, name)
        if value is not None and value != expected:
            found.append(in_words(name, value))
    if result.settings.get("optimizer", "published") != "published":
        found.append(result.settings["optimizer"])
    if result.cached:
        found.append("cached features")
    if result.study and result.val not in (None, DATA_SETS[result.study]["val"]):
        found.append(f"{result.val:,} validation images")
    arm = row["arm"]
    known = [*arm.get("detail", []), *about.get("detail", []), "mask center"]
    for part in sorted(result.parts):
        if part not in known and not ("label" in arm and part.startswith("label ")):
            found.append(part)
    return found


def telling(groups):
    """For each group its settings that the others do not share: ["local crops 6"], ..."""
    found = []
    for group in groups:
        own = []
        for name, value in sorted(group[0].settings.items()):
            if any(other[0].settings.get(name) != value for other in groups):
                own.append(in_words(name, value))
        found.append(own)
    return found


def here(groups, column, key, row, notes):
    """The cell of our numbers: '61.00 ± 1.00 (3) [a]', several separated by a slash."""
    metric = column.split()[1]
    cells = []
    for group, own in zip(groups, telling(groups), strict=True):
        of_seed = {result.seed: result.values[metric] for result in group}
        remarks = dict.fromkeys(unlike(group[0], key, row) + own)
        cells.append(spread(list(of_seed.values())) + notes.mark(remarks))
    return " / ".join(cells)


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


def is_own(key, results):
    """Whether these runs are on the data of the dissertation's table."""
    return all(result.study == TABLES[key]["data"] for result in results)


def accuracies(key):
    """The columns of a table that come from evaluations. (Table 6 has others, behind its first.)"""
    return [column for column in TABLES[key]["columns"] if len(column[1].split()) == 2]


def has_result(key, results):
    """Whether a table has a number of ours; on other data a baseline alone does not count."""
    chosen = results_for(key, results)
    for row in TABLES[key]["rows"]:
        generated = row["arm"] and row["arm"].get("strategy") not in ("none", "real", None)
        if generated or is_own(key, chosen):
            for _, column in accuracies(key):
                if entries(chosen, row["arm"], column):
                    return True
    return False


def columns_with_results(key, results):
    """Numbers of a table's columns in which there is a number of ours."""
    found = []
    for number, (_, column) in enumerate(TABLES[key]["columns"]):
        if any(entries(results, row["arm"], column) for row in TABLES[key]["rows"]):
            found.append(number)
    return found


def dissertation_table(key, results, everything=False):
    """(text, Markdown) of one table or figure.

    Columns without a number of ours and rows without any number only with `everything`.
    """
    about = TABLES[key]
    chosen = results_for(key, results)
    numbers = range(len(about["columns"])) if everything else columns_with_results(key, chosen)
    notes = Notes()
    header = two_columns([about["columns"][number] for number in numbers])
    with_text = any("text" in row for row in about["rows"])
    rows = []
    for row in about["rows"]:
        cells = [row["name"]]
        worth = everything or "text" in row
        for number in numbers:
            column = about["columns"][number][1]
            value = row["values"][number]
            groups = entries(chosen, row["arm"], column)
            cells += [shown(value), here(groups, column, key, row, notes)]
            worth = worth or value is not None or bool(groups)
        if with_text:
            cells.append(row.get("text", ""))
        if worth:
            rows.append(cells)
    if with_text:
        header.append("dissertation's text")
    below = [about["note"]] if "note" in about else []
    if not is_own(key, chosen):
        names = sorted({result.data for result in chosen})
        below.append(
            f"Here: {', '.join(names)}, other data than the dissertation's; the numbers do not "
            "compare."
        )
    return table(about["title"], header, rows, below + notes.lines())


def cost_row(name, rows):
    """The measured row for a strategy: the mirror of that name, else the first that it made."""
    if name in rows:
        return name
    found = [mirror for mirror, row in rows.items() if row["strategy"] == name]
    return found[0] if found else None


def cost_cells(values, measured):
    """FID, SSIM, ms and parameters of the dissertation and of a measured row, and ms in batches."""
    digits = {"fid": 2, "ssim": 3, "latency_ms": 2, "parameters": 0}
    cells = []
    for (key, number), value in zip(digits.items(), values, strict=True):
        found = measured.get(key)
        if found is not None and key == "parameters":
            found = found / 1e6
            number = 0 if found >= 100 else 2
        cells += [shown(value), "" if found is None else f"{found:.{number}f}"]
    batch = measured.get("batch_ms")
    return [*cells, "" if batch is None else f"{batch:.2f}"]


def measured_on(cost):
    """[sentence] that says where the rows of a cost.json were measured, one for each device."""
    measured = cost.get("rows", {})
    sentences = []
    for device in sorted({row["device"] for row in measured.values()}):
        images = {row["images"] for row in measured.values() if row["device"] == device}
        sentences.append(
            f"Measured on {device} with {', '.join(map(str, sorted(images)))} images; Frechet "
            f"distance in {cost['features']['features']} features."
        )
    return sentences


def mirrors_table(cost):
    """A cost.json by itself, where its numbers do not compare with those of Table 6."""
    rows = []
    for name, row in cost["rows"].items():
        cells = cost_cells([None] * 4, row)
        rows.append([name, *cells[1::2], cells[-1]])
    header = ["", "Frechet distance", "SSIM", "ms an image", "M parameters", "ms in batches"]
    return table("Mirrors: distance from the originals, and cost", header, rows, measured_on(cost))


def cost_table(cost, results=(), everything=False):
    """Table 6 from the content of a cost.json, with the top-1 of `results`: (text, Markdown)."""
    about = TABLES["table6"]
    measured = cost.get("rows", {})
    chosen = results_for("table6", results)
    if measured and not everything and not has_result("table6", results):
        if cost["features"]["features"] != "inception":
            return mirrors_table(cost)
    notes = Notes()
    rows, named = [], set()
    for row in about["rows"]:
        groups = entries(chosen, row["arm"], "linear top1")
        top1 = here(groups, "linear top1", "table6", row, notes)
        name = cost_row(row["cost"], measured)
        named.add(name)
        if everything or name or top1 or row["values"][0] is not None:
            cells = cost_cells(row["values"][1:], measured.get(name, {}))
            rows.append([row["name"], shown(row["values"][0]), top1, *cells])
    for name, row in measured.items():
        if name not in named:
            rows.append([name, "–", "", *cost_cells([None] * 4, row)])
    below = [about["note"], *measured_on(cost)]
    header = [*two_columns(about["columns"]), "ms in batches\nhere"]
    first = table(about["title"], header, rows, below + notes.lines())
    found = cost.get("ratios", {})
    if not found and not everything:
        return first
    rows = []
    for key, (name, value) in about["ratios"].items():
        rows.append([name, shown(value), f"{found[key]:.2g}" if key in found else ""])
    second = table("Ratios of section 5.6", ["", "dissertation", "here"], rows)
    return "\n\n".join([first[0], second[0]]), "\n\n".join([first[1], second[1]])


# ---------------------------------------------------------------- numbers
def table_as_json(key, results):
    """[{row, column, dissertation, here: [{values by seed, unlike}]}] of the filled cells."""
    about = TABLES[key]
    chosen = results_for(key, results)
    cells = []
    for row in about["rows"]:
        for (name, column), value in zip(accuracies(key), row["values"], strict=False):
            found = []
            groups = entries(chosen, row["arm"], column)
            for group, own in zip(groups, telling(groups), strict=True):
                metric = column.split()[1]
                values = {str(result.seed): result.values[metric] for result in group}
                remarks = unlike(group[0], key, row) + own
                found.append({"values by seed": values, "unlike": remarks})
            if found:
                where = {"row": row["name"], "column": name, "dissertation": value}
                cells.append(where | {"here": found})
    return cells


# ---------------------------------------------------------------- the report
def write_report(folder, everything=False):
    """Print all tables; write report.txt, report.md, report.json and the figures into `folder`."""
    from report import figures

    folder = Path(folder)
    results = read_runs(folder)
    costs = sorted(folder.rglob("cost.json"))
    cost = run.read_json(costs[-1]) if costs else {}
    parts, numbers = [], {"tables": {}}
    if results:
        arms = arms_of(results)
        parts.append(arms_table(arms))
        if differences := differences_table(arms):
            parts.append(differences)
        numbers |= as_json(arms)
        figures.draw_report(arms, folder)
    for key, about in TABLES.items():
        filled = has_result(key, results) or (key == "table6" and bool(cost))
        if not filled and not everything:
            continue
        if key == "table6":
            parts.append(cost_table(cost, results, everything))
        else:
            parts.append(dissertation_table(key, results, everything))
        numbers["tables"][key] = table_as_json(key, results)
        if "xlabel" in about:
            figures.draw_figure(key, results, folder / f"{key}.png")
    text = "\n\n".join(text for text, _ in parts)
    markdown = "\n\n".join(markdown for _, markdown in parts)
    print(text)
    if not results:
        print(f"{folder} holds no result.json: no evaluation has finished there.")
    run.write_text(folder / "report.txt", text + "\n")
    run.write_text(folder / "report.md", markdown + "\n")
    run.write_json(folder / "report.json", numbers)
