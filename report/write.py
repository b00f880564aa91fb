"""The report of a folder of runs: its own arms, then the dissertation's tables with numbers beside.

Used by 07_metrics.py report alone.
"""

from pathlib import Path

from base import run
from report import arms, figures
from report.published import TABLES, dissertation_table, fill, table6
from report.results import merge, read_study, results_of


def write_report(args):
    """Print all tables; write report.md, report.json and the figures into the folder of runs.

    args: --runs, --all, --merge, --gate, --decides.
    """
    folder, everything = Path(args.runs), args.all
    study = read_study(folder)
    results, cost = results_of(study, folder), study["cost"]
    if not results and not cost:
        run.fail(f"{folder} holds no result.json: no evaluation has finished there.")
    if folder.is_file():
        folder = folder.with_suffix("")
    run.lock(folder / "report.json")
    parts, numbers = [], {"tables": {}, "arms": [], "differences": []}
    if results:
        every_arm = arms.arms_of(results)
        differences = arms.differences(every_arm)
        parts.append(arms.arms_table(every_arm))
        if differences:
            parts.append(arms.differences_table(every_arm, differences))
        parts += arms.verdicts(every_arm, differences, args.decides)
        for arm in every_arm:
            values = {column.name: of_seed for column, of_seed in arm.values.items()}
            numbers["arms"].append(arm.cells | {"values by seed": values})
        for arm, column, of_partner in differences:
            numbers["differences"].append(arm.cells | {"measured": column.name} | of_partner)
        figures.draw_report(every_arm, folder / "report.png")
        if cost:
            figures.draw_gains(differences, cost, folder / "gains.png")
    for key, about in TABLES.items():
        if key == "table6":
            about = table6(cost, everything)
        rows = fill(about, results)
        if text := dissertation_table(about, rows, everything):
            parts.append(text)
            numbers["tables"][key] = rows
            if "xlabel" in about:
                figures.draw_figure(about, rows, folder / f"{key}.png")
    text = "\n\n".join(parts)
    print(text)
    run.write_text(folder / "report.md", text + "\n")
    run.write_json(folder / "report.json", numbers)
    if args.merge:
        merge(study, args.merge)
    if args.gate and (sentence := arms.gate(differences if results else [], args.gate)):
        run.fail(sentence)
