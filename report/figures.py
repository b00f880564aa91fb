"""The pictures of a report: report.png, the dissertation's figures, and gains against change."""

import os
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from base import run, run_folder
from images.files import find_images, spread, views_of
from images.pictures import as_stored, square
from images.plots import plt, save_figure
from report.arms import all_columns, baselines_of, description, differences
from report.published import TABLES, entries, is_own, results_for
from report.sheet import read_beside
from report.tables import half_width

COLUMNS = 8  # images of the strip
MIRRORS = 6  # rows of the strip, beside the originals and the control
CURVES = 12
PANELS = 4  # kinds of measurement in report.png
STYLES = (":", "--", "-.")


# ---------------------------------------------------------------- the dissertation's figures
def draw_figure(key, results, path):
    """Our numbers as lines with error bars, the dissertation's as stars."""
    about, chosen = TABLES[key], results_for(key, results)
    column = about["columns"][0][1]
    lines, stars = defaultdict(list), []
    for row in about["rows"]:
        if "line" not in row:
            continue
        if row["values"][0] is not None and is_own(key, chosen):
            stars.append((row["x"], row["values"][0], f"dissertation: {row['name']}"))
        if groups := entries(chosen, row["arm"], column):
            values = [result.values[column.split()[1]] for result in groups[0]]
            deviation = stdev(values) if len(values) > 1 else 0
            lines[row["line"]].append((row["x"], fmean(values), deviation))
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, (name, points) in enumerate(lines.items()):
        look = {"color": f"C{number}", "label": name}
        x, y, deviation = zip(*points, strict=True)
        if x[0] is None or name == "gamma 0":  # one number: across the whole figure
            axis.axhline(y[0], linestyle=":", **look)
        else:
            style = "--" if "control" in name else "-"
            axis.errorbar(x, y, deviation, linestyle=style, marker="o", capsize=3, **look)
    for x, y, label in stars:
        if x is None:
            axis.axhline(y, color="black", linewidth=0.8, linestyle="-.", label=label)
        else:
            axis.plot(x, y, "k*", markersize=10, label=label)
    axis.set(xlabel=about["xlabel"], ylabel="linear top-1 (%)", title=about["title"])
    axis.grid(alpha=0.3)
    if lines or stars:
        axis.legend(fontsize=7)
    save_figure(figure, path)


# ---------------------------------------------------------------- gain against change
def changes_of(arm, cost):
    """{what: number} of how far an arm's images are from the originals; {} if not measured.

    cost: the content of a cost.json, whose rows are named after the folders of mirrors.
    """
    share = arm.making.get("strength") or arm.making.get("mask", "").replace("none", "random:0")
    share = re.fullmatch(r"(?:random:|block:)?([\d.]+)", share)
    for name, row in cost["rows"].items():
        for mirror in arm.mirrors:
            if f"/{mirror.get('folder')}".endswith(f"/{name}"):
                changes = {"structural similarity": row["ssim"], "Frechet distance": row["fid"]}
                return changes | ({"share redrawn": float(share[1])} if share else {})
    return {}


def draw_gains(arms, cost, path):
    """Paired differences with 95 % intervals against what was changed: over the real image filled,
    over the baseline hollow.
    """
    whats = ["share redrawn", "structural similarity", "Frechet distance"]
    columns = all_columns(arms)
    colours = {name: f"C{i}" for i, name in enumerate({arm.strategy: 0 for arm in arms})}
    size = (5 * len(whats), 3.2 * len(columns))
    figure, axes = plt.subplots(len(columns), len(whats), figsize=size, squeeze=False)
    for arm, column, of_partner in differences(arms):
        row = axes[columns.index(column)]
        for what, change in changes_of(arm, cost).items():
            for partner, fill in (("minus real", "full"), ("minus baseline", "none")):
                if partner in of_partner:
                    values, _ = of_partner[partner]
                    look = {"color": colours[arm.strategy], "marker": "o", "fillstyle": fill}
                    label = f"{arm.cells['method']} {arm.strategy}, {partner}"
                    bar = half_width(values)
                    axis = row[whats.index(what)]
                    axis.errorbar(change, fmean(values), bar, capsize=3, label=label, **look)
    for column, row in zip(columns, axes, strict=True):
        row[0].set_ylabel(f"gain in points, {column.name}", fontsize=8)
        for what, axis in zip(whats, row, strict=True):
            axis.axhline(0, color="black", linewidth=0.8)
            axis.grid(alpha=0.3)
            axis.set_xlabel(what)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes[0, 1].legend(once.values(), once, fontsize=7)
    save_figure(figure, path)


# ---------------------------------------------------------------- report.png
def draw_accuracies(axis, arms, names, column):
    """One point with its 95 % interval for each arm, and the baselines as lines."""
    for place, arm in enumerate(arms):
        if column in arm.values:
            values = list(arm.values[column].values())
            mean = fmean(values)
            axis.errorbar(mean, place, xerr=half_width(values), fmt="o", color="C0", capsize=4)
            above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{mean:.1f}", (mean, place), fontsize=8, **above)
    for number, ((name, _), values) in enumerate(baselines_of(arms).items()):
        if column in values:
            label = f"{name} {values[column]:.1f}"
            style = STYLES[number % len(STYLES)]
            axis.axvline(values[column], color="gray", linestyle=style, label=label)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(f"{column.name}; bars: 95 % interval", fontsize=9)


def draw_curves(axis, arms, names, logs):
    """The loss of pretraining over the epochs, for one run of each arm. logs: {name: folder}."""
    for arm, name in zip(arms, names, strict=True):
        folder = logs.get(Path(arm.backbone.removesuffix("/backbone.pth")).name)
        events = run_folder.read_log(folder, "step") if folder else []
        if events and "loss" in events[0] and len(axis.lines) < CURVES:
            epochs = [event["epoch"] for event in events]
            axis.plot(epochs, [event["loss"] for event in events], label=name)
    axis.set(xlabel="epoch", title="loss of pretraining (one seed)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def strips_of(arms, files):
    """[[(name, images)]]: for each folder of originals these, what the mirrors made of them, and
    the control's images.

    Of the mirrors of the arms that are still where they were, and of those below RUNS.
    """
    mirrors = [mirror for arm in arms for mirror in arm.mirrors]
    mirrors += [run.read_json(file) | {"folder": file.parent} for file in files["augment.json"]]
    folders = {}
    for mirror in mirrors:
        folder = os.path.realpath(mirror.get("folder", ""))
        data = mirror["args"].get("data", "")
        if os.path.isdir(folder) and os.path.isdir(data):
            folders.setdefault(folder, data)
    strips = []
    for data in dict.fromkeys(folders.values()):
        paths = spread(find_images(data), COLUMNS)
        originals = read_beside(data, paths)
        rows = []
        for folder in [folder for folder in folders if folders[folder] == data][:MIRRORS]:
            if made := read_beside(views_of(folder)[0], paths):
                rows.append((f"generated: {Path(folder).name}", made))
        if not rows:
            continue
        side = rows[0][1][0].shape[0]
        if any(arm.strategy == "real" for arm in arms):
            rows.append(("control: real", [as_stored(image, side) for image in originals]))
        strips.append([("original", [square(image, side) for image in originals]), *rows])
    return strips


def draw_strip(axis, rows):
    """The rows of images as one picture, their names beside it."""
    side = rows[0][1][0].shape[0]
    lines = [np.concatenate([square(image, side) for image in images], 1) for _, images in rows]
    axis.imshow(np.concatenate(lines), interpolation="nearest")
    axis.set_xticks([])
    middles = [side * (number + 0.5) for number in range(len(rows))]
    axis.set_yticks(middles, [name for name, _ in rows], fontsize=8)
    axis.tick_params(length=0)


def draw_report(arms, files, path):
    """report.png: strips of real and generated images, accuracies with intervals, curves."""
    columns, _ = description(arms)
    names = [", ".join(filter(None, map(arm.cells.get, columns))) for arm in arms]
    logs = {file.parent.name: file.parent for file in files["log.jsonl"]}
    try:
        strips = strips_of(arms, files)
    except (OSError, SystemExit) as error:  # a folder without images has said so
        run.warn(f"report.png has no images: {error}")
        strips = []
    measured = all_columns(arms)[:PANELS]
    heights = [1.1 * len(rows) for rows in strips]
    heights += [max(2.5, 0.4 * len(arms) + 1)] + [3.5] * bool(logs)
    figure = plt.figure(figsize=(10, sum(heights)))
    grid = figure.add_gridspec(len(heights), len(measured), height_ratios=heights)
    for number, rows in enumerate(strips):
        draw_strip(figure.add_subplot(grid[number, :]), rows)
    for number, column in enumerate(measured):
        axis = figure.add_subplot(grid[len(strips), number])
        draw_accuracies(axis, arms, names if number == 0 else [""] * len(arms), column)
    if logs:
        draw_curves(figure.add_subplot(grid[-1, :]), arms, names, logs)
    save_figure(figure, path)
