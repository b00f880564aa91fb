"""Results that are planted for tests of the report, and what report.md makes of them."""

import json

from conftest import call

from report.results import class_list

IMAGENET = dict.fromkeys(sorted(class_list("augment", "imagenet_synsets.txt")), 50.0)
IMAGENET100 = dict.fromkeys(sorted(class_list("recipes", "imagenet100.txt")), 50.0)
HUNDRED = {"classes": IMAGENET100, "images": (126689, 5000)}
WILDFIRE = {"classes": {"nowildfire": 50.0, "wildfire": 50.0}, "images": (30250, 6300)}
OWN = {"classes": {"desert": 50.0, "forest": 50.0}, "images": (4000, 1000)}
TRAINED = {"stage": "03_pretrain", "method": "vicreg", "backbone": "resnet50", "epochs": 100}
TRAINED |= {"size": 224, "batch_size": 800, "mix": 0.0, "pair": ["crop"], "views": 1}
TRAINED |= {"generated_by": []}
LINEAR = {"seeds": [0], "epochs": 100, "learning_rate": 0.02}


def write_run(folder, top1, seed=0, classes=IMAGENET, images=(1281167, 50000), **more):
    """Plant a result with the dissertation's settings, but for what is given in more."""
    stage = more.pop("stage", "04_linear_eval")
    args = more.pop("args", LINEAR)
    results = more.pop("results", {"top1": {"mean": top1}, "knn_top1": {"mean": 50.0}})
    val = more.pop("val", images[1])
    baselines = more.pop("baselines", {})
    backbone = {"data": "/data/set/train", "images": images[0], "seed": seed} | TRAINED | more
    if args.get("from_scratch"):
        backbone = {"source": "from scratch", "architecture": args["architecture"], "left_out": {}}
        args = args | {"backbone": None}
    args = {"data": "/data/set", "backbone": f"runs/{folder.name}", **args}
    counts = {"train": images[0], "val": val, "classes": len(classes)}
    result = {"stage": stage, "args": args, "backbone": backbone, "backbone_sha256": str(folder)}
    result |= {"images": counts, "results": results, "baselines": baselines, "per_class": classes}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


def mirror(strategy, folder="", **args):
    return [{"strategy": strategy, "args": args, "folder": folder}]


def parts_of(folder, title):
    """The lines of cells of each part of a table of report.md."""
    tables = (folder / "report.md").read_text().split("### ")
    table = next(table for table in tables if table.startswith(title))
    parts = []
    for text in table.split("\n\n"):
        if text.startswith("| "):
            lines = [line.strip("|").split(" | ") for line in text.splitlines()]
            parts.append([[cell.strip() for cell in line] for line in lines])
    return parts


def cells(folder, title, name):
    """The cells of a row of report.md, without the first; `name`: how the row begins."""
    row = []
    for part in parts_of(folder, title):
        row += next(line for line in part if line[0] == name)[1:]
    return row


def rows_of(folder, title):
    """{name of the column: cell} of each row of a table of report.md."""
    rows = [{} for _ in parts_of(folder, title)[0][2:]]
    for header, _, *lines in parts_of(folder, title):
        for row, line in zip(rows, lines, strict=True):
            row |= dict(zip(header, line, strict=True))
    return rows


def linear_differences(folder):
    """{(generated view, epochs): row} of the paired differences of linear top-1."""
    rows = [row for row in rows_of(folder, "Paired") if row["measured"] == "linear top-1"]
    return {(row["generated view"], row.get("epochs")): row for row in rows}


def reported(capsys, *words):
    """What the report prints, without the ends of lines within sentences."""
    capsys.readouterr()
    call("07_metrics.py report", *words)
    return " ".join(capsys.readouterr().out.split())
