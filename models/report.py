"""Every result below a folder, placed in the dissertation's tables and figures: its numbers beside ours.

`dissertation.json` holds the dissertation's numbers: for each row of a table or point of a figure its arm (the
settings that our runs must have) and the values that the text gives; null where it gives none.
"""

import json
import os
import re
import statistics
from collections import defaultdict
from pathlib import Path

from models.augmenters import STRATEGIES
from models.old_run import ROOT, atomic, fail, parser, rank, read_json

DISSERTATION = json.loads((ROOT / "models" / "dissertation.json").read_text())
STUDIES = {
    "imagenet100": "imagenet100",
    "in100": "imagenet100",
    "figure30": "imagenet100",
    "figure31": "imagenet100",
    "imagenet": "imagenet",
    "imagenet1k": "imagenet",
    "ilsvrc2012": "imagenet",
    **{f"table{n}": "imagenet" for n in range(3, 8)},
    "wildfire": "satellite",
    "satellite": "satellite",
    "figure33": "satellite",
}
CLASSES = {1000: "imagenet", 100: "imagenet100"}
# What does not tell arms apart: places, seeds, what may change on resume, what follows from other settings.
INCIDENTAL = {
    "stage",
    "data",
    "out",
    "seed",
    "seeds",
    "device",
    "precision",
    "workers",
    "checkpoint_minutes",
    "log_every",
    "knn",
    "knn_every",
    "generated",
    "generated_by",
    "images",
    "peak_lr",
    "backbone",
    "method",
    "mix",
    "pair",
    "views",
    "epochs",
    "baselines",
    "grad_checkpoint",
    "architecture",
}
OF_THE_MIRROR = {
    "weights",
    "model",
    "captions",
    "label",
    "views",
    "mask",
    "strength",
    "data",
    "out",
    "seed",
    "batch_size",
    "vae_slicing",
    "vae_tiling",
    "variant",
    "device",
    "precision",
    "workers",
    "strategy",
}


# ---------------------------------------------------------------- reading runs
def generation(made_by):
    """(strategy, detail) of a run's generated views; detail is what was asked of the generator beyond its defaults."""
    if not made_by:
        return "none", ""
    if made_by == ["real"]:
        return "real", ""
    names, details = [], []
    for mirror in made_by:
        name, args = mirror["strategy"], mirror["args"]
        detail = []
        if "mask" in args:
            detail.append(f"mask {args['mask']}")
        if "strength" in args:
            strengths = (
                args["strength"] if isinstance(args["strength"], list) else [args["strength"]]
            )
            if folder := re.search(r"strength([\d.]+)", mirror.get("folder", "")):
                strengths = [folder[1]]
            detail.append("strength " + " ".join(str(float(s)) for s in strengths))
        if name in STRATEGIES:
            p = parser("")
            STRATEGIES[name][0](p)
            detail += [
                f"{k.replace('_', ' ')} {v}"
                for k, v in sorted(args.items())
                if k not in OF_THE_MIRROR and v != p.get_default(k)
            ]
        names.append(name)
        details.append(", ".join(detail))
    return " + ".join(dict.fromkeys(names)), " + ".join(dict.fromkeys(filter(None, details)))


def study_of(path, data, classes):
    """Which of the dissertation's data sets a run stands for: by a folder name of the run or of its data, such as
    imagenet, imagenet100 or satellite, else by the number of classes; '' for other data."""
    for part in (*path.parts, *reversed(Path(data).parts)):
        words = re.findall(r"[a-z0-9]+", part.lower())
        for word in ("".join(words[:2]), *words):
            if word in STUDIES:
                return STUDIES[word]
    return CLASSES.get(classes, "")


def read_result(file, runs):
    """One result.json as a flat dict: its arm, evaluation, seed and values."""
    result = read_json(file)
    args, backbone, stage = result["args"], result["backbone"], result["stage"]
    pretrained = "method" in backbone
    strategy, detail = generation(backbone.get("generated_by") if backbone.get("mix") else [])
    supervised = bool(args.get("from_scratch"))
    kind = stage.split()[0]
    if supervised:
        evaluation = "supervised"
    elif kind == "04_linear_eval":
        evaluation = "linear (cached)" if args.get("cache_features") else "linear"
    elif kind == "05_semisup_eval":
        evaluation = f"semi{args['percent']:g}"
    else:
        evaluation = next(
            w
            for w in (*stage.split()[1:], *map(str, args.values()), kind)
            if w in ("places365", "voc07", "coco", "folder", kind)
        )
    data = backbone.get("data", args.get("data") or "")
    data = str(Path(data).parent if Path(data).name == "train" else data)
    settings = {f"{k}": v for k, v in backbone.items() if k not in INCIDENTAL} if pretrained else {}
    settings |= {
        f"{kind[3:]} {k}": v
        for k, v in args.items()
        if k not in INCIDENTAL - {"epochs"}
        and k not in ("cache_features", "percent", "from_scratch")
    }
    mixed = strategy != "none"
    place = Path(runs.resolve().name) / file.parent.relative_to(runs)
    return {
        "study": study_of(place, data, result.get("images", {}).get("classes")),
        "data": Path(data).name,
        "strategy": strategy,
        "detail": detail,
        "supervised": supervised,
        "method": "supervised"
        if supervised
        else backbone.get("method") or backbone.get("source") or "?",
        "mix": backbone.get("mix", 0) if mixed else 0,
        "pair": sorted(backbone.get("pair", [])) if mixed else [],
        "views": backbone.get("views", 1) if mixed else 1,
        "evaluation": evaluation,
        "epochs": args.get("epochs") if supervised else backbone.get("epochs"),
        "network": (backbone if pretrained else args).get("backbone")
        or backbone.get("architecture")
        or "",
        "seed": backbone.get("seed", args.get("seed")),
        "settings": settings,
        "pretrained": pretrained,
        "values": {
            k: v["mean"]
            for k, v in result["results"].items()
            if isinstance(v, dict) and "mean" in v
        },
        "baselines": {
            k: v["top1"]["mean"] for k, v in result.get("baselines", {}).items() if "top1" in v
        },
    }


def collect(runs):
    """All results below `runs`; one that is not ours ends the report with a sentence that names it."""
    runs, found = Path(runs), []
    if not runs.is_dir():
        fail(f"{runs} is not a folder: give the folder that holds the runs.", 2)
    for folder, folders, files in os.walk(runs, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "result.json" in files:
            file = Path(folder) / "result.json"
            try:
                found.append(read_result(file, runs))
            except (KeyError, TypeError, AttributeError, StopIteration) as error:
                fail(
                    f"{file} is not a result of this project's evaluations ({type(error).__name__}: {error}): move it "
                    "out of the folder."
                )
    return found


# ---------------------------------------------------------------- placing them
def lengths(runs):
    """(usual, long) number of epochs: the dissertation's 100 and 1,000, in smaller studies what stands for them."""
    epochs = {run["epochs"] for run in runs if run["epochs"]}
    if not epochs:
        return None, None
    usual = 100 if 100 in epochs else min(epochs)
    return usual, 1000 if 1000 in epochs else max((e for e in epochs if e > usual), default=None)


def select(runs, arm):
    """The runs of an arm of dissertation.json; one of its `detail`s must be among the run's."""
    same_kind = [run for run in runs if run["supervised"] == arm.get("supervised", False)]
    epochs = lengths(same_kind)[arm.get("long", False)]
    wanted = {
        key: value for key, value in arm.items() if key not in ("long", "supervised", "detail")
    }
    wanted.setdefault("views", 1)
    if "pair" in wanted:
        wanted["pair"] = sorted(wanted["pair"])
    return [
        run
        for run in same_kind
        if run["epochs"] == epochs
        and all(run[k] == v for k, v in wanted.items())
        and ("detail" not in arm or {*arm["detail"]} & {*run["detail"].split(", ")})
    ]


def groups(runs, metric):
    """Lists of values over seeds, one for each set of equal settings."""
    found = defaultdict(list)
    for run in runs:
        if metric in run["values"]:
            settings = json.dumps([run["network"], run["detail"], run["settings"]], sort_keys=True)
            found[settings].append(run["values"][metric])
    return list(found.values())


def values_of(runs, arm, column):
    """Lists of values (see `groups`) of an arm's evaluation, such as "linear top1", published protocol first."""
    if arm is None:
        return []
    evaluation, metric = column.split()
    chosen = select(runs, arm)
    names = ["supervised"] if arm.get("supervised") else [evaluation, f"{evaluation} (cached)"]
    return next(
        (
            g
            for name in names
            if (g := groups([r for r in chosen if r["evaluation"] == name], metric))
        ),
        [],
    )


def spread(values):
    """'68.7 ± 0.2 (3)': mean, sample standard deviation and number of seeds; one alone is just the number."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f} ({len(values)})" if len(values) > 1 else mean


def shown(value):
    """A number of the dissertation; a dash where it gives none."""
    return "–" if value is None else str(value)


# ---------------------------------------------------------------- tables
def table(title, header, rows, note=""):
    """(plain text, Markdown) of one table; rows: lists of strings; a header may have two lines."""
    stacked = [name.rpartition("\n")[::2] for name in header]
    heads = [list(one) for one in zip(*stacked, strict=True) if any(one)]
    widths = [max(len(row[i]) for row in [*heads, *rows]) for i in range(len(header))]

    def line(cells):
        return "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    text = "\n".join(
        [title, rule, *map(line, heads), rule, *map(line, rows), rule, *([note] if note else [])]
    )
    flat = [name.replace("\n", ": ") for name in header]
    markdown = [
        "| " + " | ".join(cells) + " |"
        for cells in [flat, ["---", *["---:"] * (len(header) - 1)], *rows]
    ]
    return text, "\n".join([f"### {title}", "", *markdown, *(["", note] if note else [])])


def dissertation_table(key, runs):
    """One of the tables or figures with two columns, dissertation and here, for each quantity."""
    about = DISSERTATION[key]
    header, rows = [""], []
    for name, _ in about["columns"]:
        header += [f"{name}\ndissertation", f"{name}\nhere"]
    has_text = any("text" in row for row in about["rows"])
    for row in about["rows"]:
        cells = [row["name"]]
        for (_, column), value in zip(about["columns"], row["values"], strict=True):
            cells += [shown(value), " | ".join(map(spread, values_of(runs, row["arm"], column)))]
        rows.append(cells + ([row.get("text", "")] if has_text else []))
    notes = [about["note"]] if "note" in about else []
    if elsewhere := other_data(key, runs):
        notes.append(
            f"Here: {', '.join(elsewhere)}, other data than the dissertation's; the numbers do not compare."
        )
    return table(
        about["title"],
        header + (["dissertation's text"] if has_text else []),
        rows,
        " ".join(notes),
    )


def other_data(key, runs):
    """Names of the data of runs that stand in for those of a table or figure on data that is not its own."""
    return sorted({run["data"] for run in runs if run["study"] != DISSERTATION[key]["data"]})


def cost_table(cost, runs=()):
    """Table 6 from the content of a cost.json; top-1 from `runs`."""
    about = DISSERTATION["table6"]
    header, rows = [""], []
    for name, _ in about["columns"]:
        header += [f"{name}\ndissertation", f"{name}\nhere"]
    for row in about["rows"]:
        measured = cost.get("rows", {}).get(row["cost"], {})
        tops = values_of(runs, row["arm"], "linear top1")
        cells = [row["name"], shown(row["values"][0]), " | ".join(map(spread, tops))]
        for (_, key), value in list(zip(about["columns"], row["values"], strict=True))[1:]:
            here = measured.get(key)
            if key == "parameters" and here:
                here = here / 1e6
            digits = {"ssim": 3}.get(key, 2 if here is None or here < 100 else 0)
            cells += [shown(value), "" if here is None else f"{here:.{digits}f}"]
        batch = measured.get("batch_ms")
        rows.append([*cells, "" if batch is None else f"{batch:.2f}"])
    text, markdown = table(about["title"], [*header, "ms in batches\nhere"], rows, about["note"])
    ratios = cost.get("ratios", {})
    second = table(
        "Ratios of section 5.6",
        ["", "dissertation", "here"],
        [
            [name, shown(value), "" if ratios.get(key) is None else f"{ratios[key]:.2g}"]
            for key, (name, value) in about["ratios"].items()
        ],
    )
    where = (
        (
            f"Measured on {cost['device']} with {cost['compared']} images; Frechet distance in "
            f"{cost['features']['features']} features."
        )
        if cost.get("rows")
        else ""
    )
    return f"{text}\n{where}\n\n{second[0]}".replace(
        "\n\n\n", "\n\n"
    ), f"{markdown} {where}\n\n{second[1]}"


def all_arms(runs):
    """Every arm, grouped over seeds, and the columns of settings in which they differ."""
    values = defaultdict(set)
    for run in runs:
        for key, value in run["settings"].items():
            values[key].add(json.dumps(value, sort_keys=True))
    varying = [key for key in sorted(values) if len(values[key]) > 1]
    arms = defaultdict(list)
    for run in runs:
        generated = " ".join(
            filter(None, [run["strategy"], f"({run['detail']})" if run["detail"] else ""])
        )
        if (
            run["strategy"] == "real"
            or "mask none" in run["detail"]
            or run["detail"].startswith("strength 0.0")
        ):
            generated += ", control"
        other = ", ".join(
            f"{key.replace('_', ' ')} {run['settings'][key]}"
            for key in varying
            if run["settings"].get(key) is not None
        )
        arms[
            (
                run["data"],
                run["method"],
                run["network"],
                run["epochs"] or 0,
                generated,
                run["mix"],
                " ".join(run["pair"]),
                run["views"],
                run["evaluation"],
                other,
            )
        ].append(run["values"])
    header = [
        "data",
        "method",
        "network",
        "epochs",
        "generated view",
        "gamma",
        "pair",
        "views",
        "evaluation",
        "other",
        "top-1 or mAP",
        "kNN",
        "seeds",
    ]
    rows = []
    for key in sorted(
        arms, key=lambda k: tuple(map(str, k[:3])) + (k[3],) + tuple(map(str, k[4:]))
    ):
        main = [v.get("top1", v.get("map")) for v in arms[key]]
        knn = [v["knn_top1"] for v in arms[key] if "knn_top1" in v]
        rows.append(
            [
                *(f"{c:g}" if isinstance(c, (int, float)) else str(c) for c in key),
                spread([m for m in main if m is not None])
                if any(m is not None for m in main)
                else "",
                spread(knn) if knn else "",
                str(len(main)),
            ]
        )
    keep = [
        i for i in range(len(header)) if i in (4, 5, 10) or len({row[i] for row in rows}) > 1
    ]  # what is all equal
    same = [
        f"{header[i]} {rows[0][i]}"
        for i in range(len(header))
        if rows and i not in keep and rows[0][i]
    ]
    beside = defaultdict(list)
    for run in runs:
        for name, value in run["baselines"].items():
            beside[f"{name} on {run['data']}"].append(value)
    notes = [f"Common to all: {', '.join(same)}."] if same else []
    if beside:
        notes.append(
            f"Baselines: {', '.join(f'{name} {statistics.fmean(v):.2f}' for name, v in beside.items())}."
        )
    return table(
        "All arms (mean ± standard deviation over seeds)",
        [header[i] for i in keep],
        [[row[i] for i in keep] for row in rows],
        " ".join(notes),
    )


# ---------------------------------------------------------------- figures
def draw(key, runs, path):
    """Draw a figure: here as lines with error bars, the dissertation's numbers as stars."""
    from models.plots import plt, save_figure

    about = DISSERTATION[key]
    lines, stars = defaultdict(list), []
    for row in about["rows"]:
        found = values_of(runs, row["arm"], about["columns"][0][1])
        if "line" in row and row["values"][0] is not None and not other_data(key, runs):
            stars.append((row["x"], row["values"][0], row["name"]))
        if "line" in row and found:
            values = found[0]
            lines[row["line"]].append(
                (
                    row["x"],
                    statistics.fmean(values),
                    statistics.stdev(values) if len(values) > 1 else 0,
                )
            )
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for i, (name, points) in enumerate(lines.items()):
        style = "--" if "control" in name else "-"
        if points[0][0] is None or name == "gamma 0":  # one number: across the whole figure
            axis.axhline(points[0][1], color=f"C{i}", linestyle=":", label=name)
        else:
            x, y, sd = zip(*points, strict=True)
            axis.errorbar(
                x, y, sd, color=f"C{i}", linestyle=style, marker="o", capsize=3, label=name
            )
    for x, y, name in stars:
        if x is None:
            axis.axhline(
                y, color="black", linewidth=0.8, linestyle="-.", label=f"dissertation: {name}"
            )
        else:
            axis.plot(x, y, "k*", markersize=10, label=f"dissertation: {name}")
    axis.set(xlabel=about["xlabel"], ylabel="linear top-1 (%)", title=about["title"])
    axis.grid(alpha=0.3)
    if lines or stars:
        axis.legend(fontsize=7)
    else:
        axis.text(0.5, 0.5, "no runs yet", ha="center", va="center", transform=axis.transAxes)
    save_figure(figure, path)


def report(folder):
    """Print all tables; write report.txt, report.md and the three figures into `folder`."""
    runs, parts = collect(folder), []
    of_study = defaultdict(list)
    for run in runs:
        of_study[run["study"]].append(run)
    if not of_study["satellite"]:  # the study of section 5.7 on other data
        of_study["satellite"] = [r for r in of_study[""] if r["supervised"] or r["pretrained"]]
    costs = sorted(Path(folder).rglob("cost.json"))
    for key, about in DISSERTATION.items():
        chosen = of_study[about["data"]]
        if key == "table6":
            parts.append(cost_table(read_json(costs[-1]) if costs else {}, chosen))
        else:
            parts.append(dissertation_table(key, chosen))
        if "xlabel" in about:
            draw(key, chosen, Path(folder) / f"{key}.png")
    if runs:
        parts.append(all_arms(runs))
    if rank() == 0:
        text = "\n\n".join(part[0] for part in parts) + "\n"
        print(text)
        if not runs:
            print(f"{folder} holds no result.json: no evaluation has finished there.")
        for name, content in (
            ("report.txt", text),
            ("report.md", "\n\n".join(part[1] for part in parts) + "\n"),
        ):
            with atomic(Path(folder) / name) as temporary:
                temporary.write_text(content)
