"""An evaluation from its arguments to its result: what 04, 05 and 06 have in common.

Light at import: the arguments need neither torch nor matplotlib.
"""

import argparse
import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base import cli, run, run_folder
from base.parallel import rank


# ---------------------------------------------------------------- arguments
def folder_arguments(p):
    """Add --data and --eval-on, for class folders."""
    p.add_argument(
        "--data", required=True, help="folder with train/CLASS/images and val/CLASS/images"
    )
    p.add_argument(
        "--eval-on",
        default="val",
        help="sub-folder of --data to measure on; where there are both valid and test, choose on "
        "valid and report test once",
    )


def backbone_arguments(p, out, from_scratch=False):
    """Add the arguments of every evaluation. out: what the default of --out ends in.

    from_scratch: the stage has --from-scratch, so that a backbone can be left out.
    """
    random = "--from-scratch" if from_scratch else "--backbone random"
    p.add_argument(
        "--backbone",
        required=not from_scratch,
        help="run folder, weight file, or the word random (see --architecture)",
    )
    p.add_argument("--out", help=f"run folder; without it the backbone's name with {out}")
    p.add_argument(
        "--size",
        type=cli.positive,
        help="side of the crops in pixels; without it that of the pretraining, or 224. Evaluation "
        "crops the centre of an image resized to 256/224 of it; images of exactly this size are "
        "taken whole",
    )
    p.add_argument("--architecture", default="resnet50", help=f"with {random}: the network's name")
    p.add_argument(
        "--small-images", action="store_true", help=f"with {random}: 3x3 stem, no max-pooling"
    )
    cli.device_arguments(p)


def default_out(backbone, ending):
    """The run folder beside a backbone: runs/x or runs/x/backbone.pth -> runs/x-ending."""
    name = backbone.rstrip("/").removesuffix("/backbone.pth").replace(":", "-")
    if Path(name).name in ("", "..", "backbone.pth"):  # a folder that is not called by its name
        name = os.path.abspath(name).removesuffix("/backbone.pth")
    return f"{name.removesuffix('.tar').removesuffix('.pth')}-{ending}"


# ---------------------------------------------------------------- the run
class Evaluation(NamedTuple):
    """An evaluation that has begun: its run folder, what was asked for, what is known of the
    backbone (see resnet.load_backbone).
    """

    out: Path
    args: argparse.Namespace
    stage: str
    info: dict


def begin(args, stage, data, info):
    """The Evaluation of a run folder that is new or goes on; None if it is finished.

    Backbone, images and labels must be those that the run began with. args.size becomes that of
    the pretraining, or 224, where it was not given.
    """
    run.keep_apart(args.data, out=args.out)
    if not (data.train.files and data.val.files):
        run.fail(f"--data {args.data}: there are no images to train on, or none to measure on.")
    began = run_folder.run_arguments(args.out).get("data", args.data)  # it may have been moved
    inputs = {
        "backbone file": info["sha256"],
        "training set": fingerprint(data.train, args.data, began),
        "evaluation set": fingerprint(data.val, args.data, began),
    }
    out = run_folder.open_run(args, stage, "result.json", inputs=inputs)
    args.size = args.size or info["args"].get("size") or 224
    return out and Evaluation(out, args, stage, info)


def fingerprint(split, data, began):
    """A line that tells two lists of labelled images in `data` apart.

    began: the folder that the run began with. The images have the names that they had there.
    """
    names = split.files
    if data != began:
        relative = [os.path.relpath(name, data) for name in names]
        names = [str(Path(began, name)) for name in relative]
    labels = hashlib.blake2b(split.labels.tobytes(), digest_size=8).hexdigest()
    return f"{len(split.files)} images, names {run.names_hash(names)}, labels {labels}"


# ---------------------------------------------------------------- numbers
def summary(values):
    """Mean, sample standard deviation (0 of one value) and the values, rounded to 4 digits."""
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return {
        "mean": round(float(np.mean(values)), 4),
        "sd": round(float(sd), 4),
        "values": [round(value, 4) for value in values],
    }


def sentence(results):
    """The numbers of a result in one line."""
    words = []
    for key, value in results.items():
        if isinstance(value, dict):
            spread = f" +- {value['sd']:.2f}" if len(value["values"]) > 1 else ""
            words.append(f"{key} {value['mean']:.2f}{spread}")
    return ", ".join(words)


def confusion(guesses, labels, classes):
    """{class: {guessed class: number}} without the zeros. guesses, labels: int64 (n,), numpy."""
    n = len(classes)
    counts = np.bincount(labels * n + guesses, minlength=n * n)
    table = {}
    for name, row in zip(classes, counts.reshape(n, n), strict=True):
        guessed = row.nonzero()[0]
        table[name] = {classes[guess]: int(row[guess]) for guess in guessed}
    return table


def per_class(table):
    """{class: percent correct, or None if it has no images} of a confusion table."""
    shares = {}
    for name, row in table.items():
        n = sum(row.values())
        correct = row.get(name, 0)
        shares[name] = round(100 * correct / n, 4) if n else None
    return shares


def copies(train, val):
    """How many files of `val` are in `train`, or copies: of equal size, with equal last 4 KB."""

    def sized(files):
        return [(file, os.path.getsize(file)) for file in files if os.path.exists(file)]

    def end_of(file, size):
        with open(file, "rb") as opened:
            opened.seek(max(0, size - 4096))
            return size, hash(opened.read())  # ImageNet has 300,000 of a size of val's

    train = sized(train)
    sizes = {size for _, size in train}
    candidates = [(file, size) for file, size in sized(val) if size in sizes]
    both = {size for _, size in candidates}
    ends = {end_of(file, size) for file, size in train if size in both}
    return sum(end_of(file, size) in ends for file, size in candidates)


# ---------------------------------------------------------------- the ending
def conclude(evaluation, data, results, by_class, what, **measured):
    """Print the results, write result.png and result.json, remove the checkpoint (process 0).

    data: with the part of val that could be read. results: {name: `summary`, or a number}.
    by_class: {class: percent, or None where there is none}. what: the measure of by_class.
    measured: what else is written.
    """
    if rank() > 0:
        return
    from images import plots

    out, args, stage, info = evaluation
    print(f"{stage}: {sentence(results)}")
    both = copies(data.train.files, data.val.files)
    if both:
        run.warn(
            f"{both} of the {len(data.val.files)} images that were measured are among the training "
            "images as well: these numbers are too high."
        )
    shown = {name: value for name, value in by_class.items() if value is not None}
    mean = np.mean(list(shown.values()))
    title = f"{what} per class, mean {mean:.2f} %"
    plots.bars(out / "result.png", shown, title)
    content = {
        "stage": stage,
        "args": vars(args),
        "backbone": info["args"] or {key: info[key] for key in ("source", "architecture")},
        "backbone_sha256": info["sha256"],
        "size": args.size,
        "images": {
            "train": len(data.train.files),
            "val": len(data.val.files),
            "classes": len(data.classes),
            "val also in train": both,
            "unreadable": run_folder.unreadable_counts(out),  # those of val are left out
        },
        "results": results,
    }
    run.write_json(out / "result.json", content | measured)
    run_folder.close_run(out)


def conclude_classes(evaluation, data, results, guesses, **measured):
    """`conclude` for images of one class each.

    guesses: int64 (m * n,), numpy: the guessed classes of the n images, m times.
    """
    n = len(data.val.files)
    labels = np.tile(data.val.labels, len(guesses) // n)
    table = confusion(guesses, labels, data.classes)
    by_class = per_class(table)
    top1 = results["top1"]["mean"]
    error = math.sqrt(top1 * (100 - top1) / n)
    results["standard_error"] = round(error, 4)
    measured |= {"per_class": by_class, "confusion": table}
    conclude(evaluation, data, results, by_class, "top-1", **measured)
