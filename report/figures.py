"""The pictures of a report: report.png, the dissertation's figures, gains against change.

Used by 07 report.
"""

from collections import defaultdict
from statistics import fmean, stdev

from images.plots import plt, save_figure
from report.arms import all_columns, description
from report.tables import half_width

PANELS = 4  # kinds of measurement in report.png
KEPT = {  # columns of cost.json, and their names in the figure
    "class_kept": "images that keep their class (%)",
    "feature_distance": "mean cosine distance of the features",
    "fid": "Frechet distance",
}


# ---------------------------------------------------------------- the dissertation's figures
def draw_figure(about, rows, path):
    """Our numbers as lines with error bars, the dissertation's as stars. rows: see `fill`."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    lines = defaultdict(list)
    own = "other data" not in str(rows)
    for row in about["rows"]:
        if "line" not in row:
            continue
        (cell,) = rows[row["name"]].values()
        if cell["here"]:
            values = list(cell["here"][0]["values by seed"].values())
            deviation = stdev(values) if len(values) > 1 else 0
            point = (row["x"], fmean(values), deviation)
            lines[row["line"]].append(point)
        (published,) = row["values"]
        if own and published is not None:
            axis.plot(row["x"], published, "k*", label=f"dissertation: {row['name']}")
    for name, points in lines.items():
        x, y, deviation = zip(*points, strict=True)
        axis.errorbar(
            x,
            y,
            deviation,
            linestyle="--" if "control" in name else "-",
            marker="o",
            capsize=3,
            label=name,
        )
    axis.set(xlabel=about["xlabel"], ylabel="linear top-1 (%)", title=about["title"])
    finish(axis)
    save_figure(figure, path)


def finish(axis):
    """A grid, and a legend that says each thing once."""
    axis.grid(alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        once = dict(zip(labels, handles, strict=True))
        axis.legend(once.values(), once, fontsize=7)


# ---------------------------------------------------------------- gain against change
def change_of(arm, cost):
    """The row of a cost.json that tells how far an arm's images are from the originals, or {}.

    Rows are named after the folders of mirrors.
    """
    folders = [f"/{mirror.get('folder')}" for mirror in arm.mirrors]
    for name, row in cost["rows"].items():
        if any(folder.endswith(f"/{name}") for folder in folders):
            return row
    return {}


def draw_gains(differences, cost, path):
    """Linear top-1 minus that of the real image, with 95 % intervals, against what the generated
    images keep of the originals. differences: see report/arms.py.
    """
    points = []
    for arm, column, of_partner in differences:
        change = change_of(arm, cost)
        if change and column.name.startswith("linear") and "minus real" in of_partner:
            points.append((arm, change, of_partner["minus real"]["differences"]))
    panels = [name for name in KEPT if points and all(name in change for _, change, _ in points)]
    if not panels:
        return
    n = len(panels)
    figure, axes = plt.subplots(1, n, figsize=(4 * n, 4), squeeze=False)
    for axis, name in zip(axes[0], panels, strict=True):
        for number, (arm, change, gains) in enumerate(points):
            cells = arm.cells
            axis.errorbar(
                change[name],
                fmean(gains),
                half_width(gains),
                fmt="os^vDP*"[number % 7],  # the colours repeat after ten
                capsize=3,
                label=f"{cells['method']} {cells['generated view']}",
            )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel=KEPT[name], ylabel="linear top-1 minus the real image's")
        axis.grid(alpha=0.3)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    save_figure(figure, path)


# ---------------------------------------------------------------- report.png
def draw_accuracies(axis, arms, names, column):
    """One point with its 95 % interval for each arm."""
    for place, arm in enumerate(arms):
        if column in arm.values:
            values = list(arm.values[column].values())
            mean = fmean(values)
            axis.errorbar(mean, place, xerr=half_width(values), fmt="o", color="C0", capsize=4)
            axis.text(mean, place - 0.15, f"{mean:.1f}", fontsize=8, ha="center")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title(f"{column.name}; bars: 95 % interval", fontsize=9)
    finish(axis)


def draw_report(arms, path):
    """report.png: the accuracies of all arms, a panel for each kind of measurement."""
    columns, _ = description(arms)
    names = []
    for arm in arms:
        cells = arm.cells | {"epochs": f"{arm.cells['epochs']} epochs"}
        if arm.strategy == "none":
            cells["generated view"] = "no generated view"
        words = [cells[name] for name in columns]
        names.append(", ".join(filter(None, words)))
    measured = all_columns(arms)[:PANELS]
    width = 2 + 3 * len(measured)
    height = max(2.5, 0.4 * len(arms) + 1)
    figure, axes = plt.subplots(
        1, len(measured), figsize=(width, height), squeeze=False, sharey=True
    )
    for axis, column in zip(axes[0], measured, strict=True):
        draw_accuracies(axis, arms, names, column)
    save_figure(figure, path)
