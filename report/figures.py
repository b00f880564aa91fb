"""The pictures of a report: the dissertation's figures with our numbers, and report.png."""

import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from base import run, run_folder
from images.files import spread, stem_of, suffixes_in
from images.pairs import mirrors_of
from images.pictures import as_stored, square
from images.plots import plt, save_figure
from images.read import read_image
from report.arms import column_order, columns_of
from report.tables import half_width
from report.write import TABLES, entries, is_own, results_for

COLUMNS = 8  # images of the strip
MIRRORS = 6  # rows of the strip, beside the originals and the control
CURVES = 12
STYLES = (":", "--", "-.")


# ---------------------------------------------------------------- the dissertation's figures
def points_of(key, results):
    """({line: [(x, mean, standard deviation)]}, [(x, the dissertation's number, its name)])."""
    about = TABLES[key]
    column = about["columns"][0][1]
    chosen = results_for(key, results)
    metric = column.split()[1]
    lines, stars = defaultdict(list), []
    for row in about["rows"]:
        if "line" not in row:
            continue
        if row["values"][0] is not None and is_own(key, chosen):
            stars.append((row["x"], row["values"][0], row["name"]))
        if groups := entries(chosen, row["arm"], column):
            values = [result.values[metric] for result in groups[0]]
            deviation = stdev(values) if len(values) > 1 else 0
            lines[row["line"]].append((row["x"], fmean(values), deviation))
    return lines, stars


def draw_figure(key, results, path):
    """Our numbers as lines with error bars, the dissertation's as stars."""
    lines, stars = points_of(key, results)
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, (name, points) in enumerate(lines.items()):
        colour = f"C{number}"
        if points[0][0] is None or name == "gamma 0":  # one number: across the whole figure
            axis.axhline(points[0][1], color=colour, linestyle=":", label=name)
            continue
        x, y, deviation = zip(*points, strict=True)
        style = "--" if "control" in name else "-"
        axis.errorbar(
            x, y, deviation, color=colour, linestyle=style, marker="o", capsize=3, label=name
        )
    for x, y, name in stars:
        label = f"dissertation: {name}"
        if x is None:
            axis.axhline(y, color="black", linewidth=0.8, linestyle="-.", label=label)
        else:
            axis.plot(x, y, "k*", markersize=10, label=label)
    about = TABLES[key]
    axis.set(xlabel=about["xlabel"], ylabel="linear top-1 (%)", title=about["title"])
    axis.grid(alpha=0.3)
    if lines or stars:
        axis.legend(fontsize=7)
    save_figure(figure, path)


# ---------------------------------------------------------------- report.png
def names_of(arms):
    """A short name for each arm: what not all arms have in common."""
    names = []
    for arm in arms:
        words = []
        for key, value in arm.cells.items():
            differs = len({other.cells[key] for other in arms} - {""}) > 1
            if key == "generated view":
                words.append("no generated view" if value == "none" else short_view(arm, arms))
            elif value and differs:
                words.append(f"{key} {value}" if key in ("gamma", "views") else value)
        names.append(", ".join(words))
    return names


def short_view(arm, arms):
    """How an arm's views were made, without what all arms of its strategy have in common."""
    alike = [other.one.parts for other in arms if other.one.strategy == arm.one.strategy]
    text = arm.generated
    for detail in set.intersection(*alike) if len(alike) > 1 else ():
        text = text.replace(f", {detail}", "")
    return text


def commonest_column(arms):
    """The kind of measurement that most arms have; of several, linear evaluation."""
    count = defaultdict(int)
    for arm in arms:
        for column in arm.values:
            count[column] += 1
    most = max(count.values())
    columns = [column for column in count if count[column] == most]
    return min(columns, key=column_order)


def baselines_of(arms, column):
    """{name: mean percent} of what the accuracies of a column must be held against."""
    found = defaultdict(list)
    for result in [result for arm in arms for result in arm.results]:
        if columns_of(result)[0] == column:
            for name, value in result.baselines.items():
                found[name].append(value)
    return {name: fmean(values) for name, values in found.items()}


def draw_accuracies(axis, arms, names):
    """One point with its 95 % interval for each arm, and the baselines as lines."""
    column = commonest_column(arms)
    shown = []
    for name, arm in zip(names, arms, strict=True):
        if column not in arm.values:
            continue
        values = list(arm.values[column].values())
        mean = fmean(values)
        place = len(shown)
        shown.append(name)
        axis.errorbar(mean, place, xerr=half_width(values), fmt="o", color="C0", capsize=4)
        above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axis.annotate(f"{mean:.1f}", (mean, place), **above)
    baselines = baselines_of(arms, column)
    for number, (name, value) in enumerate(baselines.items()):
        style = STYLES[number % len(STYLES)]
        axis.axvline(value, color="gray", linestyle=style, label=f"{name} {value:.1f}")
    if baselines:
        axis.legend(fontsize=7)
    axis.set_yticks(range(len(shown)), shown, fontsize=8)
    axis.invert_yaxis()
    axis.margins(y=0.15)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("percent")
    axis.set_title(f"{column.name}; bars: 95 % interval", fontsize=10)


def logs_of(arms, folder):
    """{arm's number: lines of the log}: one pretraining for each arm whose run lies in folder."""
    runs = {}
    for file in sorted(Path(folder).rglob("log.jsonl")):
        runs[file.parent.name] = file.parent
    found = {}
    for number, arm in enumerate(arms):
        name = Path(arm.one.backbone.removesuffix("/backbone.pth")).name
        if name in runs:
            events = run_folder.read_log(runs[name], "step")
            if events and "loss" in events[0]:
                found[number] = events
    return found


def draw_curves(axis, logs, names):
    """The loss of pretraining over the epochs."""
    for number, events in list(logs.items())[:CURVES]:
        epochs = [event["epoch"] for event in events]
        axis.plot(epochs, [event["loss"] for event in events], label=names[number])
    axis.set(xlabel="epoch", title="loss of pretraining (one seed)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def some_images(folder):
    """A few images of a folder of class folders, as paths relative to it."""
    classes = sorted(place for place in folder.iterdir() if place.is_dir()) or [folder]
    chosen = spread(classes, COLUMNS)
    each = -(-COLUMNS // len(chosen))
    found = []
    for place in chosen:
        files = [file for file in place.rglob("*.*") if file.is_file()]
        found += sorted(files)[:each]
    return sorted(file.relative_to(folder).as_posix() for file in found[:COLUMNS])


def read_beside(folder, paths):
    """The images of the folder with these paths, whatever their extension; [] if one is missing."""
    suffixes = suffixes_in(folder, paths)
    if b"" in suffixes:
        return []
    images = []
    for path, suffix in zip(paths, suffixes, strict=True):
        images.append(read_image(Path(folder, stem_of(path) + suffix.decode())))
    return images


def strip_of(arms):
    """[(name, images)]: originals, what each mirror made of them, and the control's images.

    Only of mirrors that are still where they were when the runs used them.
    """
    mirrors = {}
    for mirror in [mirror for arm in arms for mirror in arm.one.mirrors]:
        if os.path.isdir(mirror.get("folder", "")):
            mirrors.setdefault(mirror["folder"], mirror)
    if not mirrors:
        return []
    folders = list(mirrors)[:MIRRORS]
    views = {folder: mirrors_of([folder], 1)[0][0] for folder in folders}
    paths = some_images(views[folders[0]])
    originals = read_beside(mirrors[folders[0]]["args"].get("data", ""), paths)
    if not originals:
        return []
    rows = []
    for folder, view in views.items():
        if made := read_beside(view, paths):
            rows.append((f"generated: {Path(folder).name}", made))
    side = rows[0][1][0].shape[0]
    if any(arm.one.strategy == "real" for arm in arms):
        rows.append(("control: real", [as_stored(image, side) for image in originals]))
    return [("original", [square(image, side) for image in originals]), *rows]


def draw_strip(axis, rows):
    """The rows of images as one picture, their names beside it."""
    side = rows[0][1][0].shape[0]
    lines = [np.concatenate([square(image, side) for image in images], 1) for _, images in rows]
    axis.imshow(np.concatenate(lines), interpolation="nearest")
    axis.set_xticks([])
    middles = [side * (number + 0.5) for number in range(len(rows))]
    axis.set_yticks(middles, [name for name, _ in rows], fontsize=8)
    axis.tick_params(length=0)


def draw_report(arms, folder):
    """report.png: accuracies with intervals, curves, a strip of real and generated images."""
    names = names_of(arms)
    logs = logs_of(arms, folder)
    try:
        rows = strip_of(arms)
    except OSError as error:
        run.warn(f"report.png has no images: {error}")
        rows = []
    panels = [("strip", 1.1 * len(rows))] if rows else []
    panels.append(("accuracies", max(2.5, 0.4 * len(arms) + 1)))
    if logs:
        panels.append(("curves", 3.5))
    heights = [height for _, height in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(10, sum(heights)), height_ratios=heights, squeeze=False
    )
    for (name, _), axis in zip(panels, axes[:, 0], strict=True):
        if name == "strip":
            draw_strip(axis, rows)
        elif name == "accuracies":
            draw_accuracies(axis, arms, names)
        else:
            draw_curves(axis, logs, names)
    save_figure(figure, Path(folder) / "report.png")
