"""The report of a folder of runs: its own arms, then the dissertation's tables with numbers beside.

Used by 07_metrics.py report alone.
"""

from pathlib import Path

from base import run
from report import figures
from report.arms import arms_of, arms_table, as_json, differences_table, verdicts
from report.published import TABLES, cost_table, dissertation_table, has_result, table_as_json
from report.results import files_below, read_runs


def write_report(folder, everything=False):
    """Print all tables; write report.txt, report.md, report.json and the figures into `folder`."""
    folder = Path(folder)
    results = read_runs(folder)
    files = files_below(folder)
    cost = run.read_json(files["cost.json"][-1]) if files["cost.json"] else {}
    parts, numbers = [], {"tables": {}}
    if results:
        arms = arms_of(results)
        parts.append(arms_table(arms))
        if differences := differences_table(arms):
            parts.append(differences)
        if sentences := "\n".join(verdicts(arms)):
            parts.append((sentences, sentences))
        numbers |= as_json(arms)
        figures.draw_report(arms, files, folder / "report.png")
        if cost:
            figures.draw_gains(arms, cost, folder / "gains.png")
    for key, about in TABLES.items():
        filled = has_result(key, results) or (key == "table6" and cost)
        if not filled and not everything:
            continue
        if key == "table6":
            parts.append(cost_table(cost, results, everything))
        else:
            parts.append(dissertation_table(key, results, everything))
        numbers["tables"][key] = table_as_json(key, results)
        if "xlabel" in about:
            figures.draw_figure(key, results, folder / f"{key}.png")
    text, markdown = ("\n\n".join(part[kind] for part in parts) for kind in (0, 1))
    print(text)
    if not results:
        print(f"{folder} holds no result.json: no evaluation has finished there.")
    run.write_text(folder / "report.txt", text + "\n")
    run.write_text(folder / "report.md", markdown + "\n")
    run.write_json(folder / "report.json", numbers)
