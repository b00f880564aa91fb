"""What an augmentation costs and how far it takes an image from the original (Table 6).

Used by 07 cost. The distance and the similarity are those of images that 02_augment.py has stored.
Only the time is measured by generating.
"""

import argparse
import contextlib
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from augment.registry import STRATEGIES
from base import cli, parallel, run, run_folder
from evaluate import linear
from evaluate.frechet import frechet_distance, moments_of_files
from evaluate.ssim import similarities
from images.files import class_of, evenly, matched, mirror_root
from images.pairs import mirrors_of
from images.read import UnreadableImage
from report.results import files_below

WARM_UP = 10  # batches
KEPT = 10000  # images, at the most, of which the class and the distance are measured


# ---------------------------------------------------------------- time
def milliseconds(strategy, images, paths, batch):
    """Time for one generated image in batches of `batch`, from uint8 tensor to uint8 tensor on the
    CPU.
    """
    starts = range(0, len(paths), batch)
    for part in (starts[:WARM_UP], starts):
        begin = time.perf_counter()
        for start in part:
            some = slice(start, start + batch)
            strategy.generate(images[some], paths[some])
    seconds = time.perf_counter() - begin
    return 1000 * seconds / (len(paths) * len(strategy.views))


def time_of(mirror, data, paths, batch, device):
    """{latency_ms, batch_ms, parameters}: of one image alone, and of one image in batches."""
    entry = STRATEGIES.get(mirror["strategy"])
    if entry is None:  # its program is not part of this project
        return {"latency_ms": None}
    flags = cli.parser("")
    cli.device_arguments(flags)
    args = vars(flags.parse_args([])) | mirror["args"]
    strategy = entry.build(argparse.Namespace(**args), device)
    if strategy.prepare:
        strategy.prepare()
    times = {"parameters": strategy.parameters}
    if parallel.rank() == 0:
        images = {}
        for path in paths:
            with contextlib.suppress(UnreadableImage):  # `measure_row` has named it
                images[path] = strategy.read(Path(data, path))
        tensor = torch.from_numpy(np.stack(list(images.values())))
        read = list(images)
        times["latency_ms"] = milliseconds(strategy, tensor, read, 1)
        times["batch_ms"] = milliseconds(strategy, tensor, read, batch)
    parallel.barrier()  # the others do nothing meanwhile
    return times


# ---------------------------------------------------------------- what is kept
def among(x, y):
    """Which rows of x (n, width) are the features of an image that y (m, width) has, too: bool."""
    x = F.normalize(x)
    y = F.normalize(y)
    largest = [(part @ y.T).amax(1) for part in x.split(1024)]
    return torch.cat(largest) > 0.9999


def kept(pairs, rows, data, device):
    """What stored images keep of their originals, in the features, as {name of a column: number}.

    feature_distance: mean cosine distance. class_kept: percent of the stored images that a linear
    layer gives the class of their original, and class_of_originals the same of these themselves.
    Two layers are fitted, each on every other original, and judge the rest, without the images that
    they were fitted on: the oracle's are originals, too. None for one class.
    pairs: (original, generated), files. rows: {file: features (width,)}.
    """
    pairs = [pair for pair in pairs if pair[0] in rows and pair[1] in rows]
    originals = torch.stack([rows[file] for file, _ in pairs])
    generated = torch.stack([rows[file] for _, file in pairs])
    distance = 1 - F.cosine_similarity(originals, generated).mean().item()
    names = [class_of(os.path.relpath(file, data)) for file, _ in pairs]
    classes = sorted(set(names))
    if len(classes) < 2:
        return {"feature_distance": distance}
    labels = torch.tensor([classes.index(name) for name in names])
    right = torch.zeros(2)
    judged = torch.zeros(2)
    for half in (0, 1):
        other = slice(1 - half, None, 2)
        fitted = originals[other]
        x = fitted.clone()
        mean, sd = linear.standardise(x, device)
        y = labels[other]
        W, _ = linear.fit_few(x, y, len(classes), len(x), device)
        for side, images in enumerate((originals, generated)):
            rest = images[half::2]
            new = ~among(rest, fitted)
            scores = linear.scores(W, (rest.to(device) - mean) / sd)
            hits = scores.argmax(1).cpu() == labels[half::2]
            right[side] += hits[new].sum()
            judged[side] += new.sum()
    shares = 100 * right / judged.clamp(min=1)
    originals_right, generated_right = shares.tolist()
    return {
        "feature_distance": distance,
        "class_kept": generated_right,
        "class_of_originals": originals_right,
    }


# ---------------------------------------------------------------- rows
def name_of(folder):
    """The name of a mirror's row: its folder's, such as inpaint or diffusion/strength0.2."""
    return str(Path(folder).resolve().relative_to(mirror_root(folder).parent))


def originals_of(mirror):
    """The folder of a mirror's originals. mirror: what its augment.json says."""
    if "data" not in mirror["args"]:
        run.fail(
            f"{mirror['folder']}/augment.json has no data in its args: where are the originals?"
        )
    return mirror["args"]["data"]


def measure_row(folder, features, moments, most, timed, how):
    """All that Table 6 says of one mirror: of one of its views, drawn for each image, and their
    originals.

    features: an Extractor. moments: {originals: (theirs, their features)}, from the mirrors before
    this one. most: images that are compared; timed: that are generated. how: processes that read,
    and the share of unreadable images.
    """
    views, (mirror,) = mirrors_of([folder], 1)
    data = originals_of(mirror)
    name = name_of(folder)
    device = features.device
    compared = evenly(matched(data, views[0]), most)
    originals = []
    stored = []
    for original, generated in compared:
        # One view of each image: a Frechet distance falls with the number of images.
        view = views[run.seed_rng(0, original, "view").integers(len(views))]
        originals.append(os.path.join(data, original))
        stored.append(os.path.join(view, generated))
    pairs = list(zip(originals, stored, strict=True))

    def measured(files, what):
        rows = {}
        wanted = set(evenly(files, KEPT))

        def keep(batch, batch_rows):
            for file, row in zip(batch, batch_rows.float().cpu(), strict=True):
                if file in wanted:
                    rows[file] = row.clone()  # a view of its batch would hold all of it

        return moments_of_files(files, features, what, *how, keep), rows

    if tuple(originals) not in moments:
        moments[tuple(originals)] = measured(originals, "originals")
    (images, *of_originals), rows = moments[tuple(originals)]
    (_, *of_generated), stored_rows = measured(stored, name)
    every_row = parallel.union(rows | stored_rows)
    again = evenly([original for original, _ in compared], timed)
    return {
        "fid": frechet_distance(*of_originals, *of_generated),
        "ssim": float(np.nanmean(similarities(pairs, features.size, name, *how))),
        **kept(pairs, every_row, data, device),
        "images": images,
        "strategy": mirror["strategy"],
        "made_by": made_by(mirror),
        "timed": len(again),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        **time_of(mirror, data, again, features.batch_size, device),
    }


def made_by(mirror):
    """What tells one mirror from another: the arguments and inputs that it was made with."""
    return {"args": mirror["args"], "inputs": mirror.get("inputs", {})}


def pretraining_speed(runs):
    """Images/s of pretraining on one device: the median of the runs below a folder, or None."""
    speeds = []
    for file in files_below(runs, "log.jsonl"):
        folder = file.parent
        if run_folder.run_arguments(folder).get("stage") != "03_pretrain":
            continue
        values = [step["images_per_second"] for step in run_folder.read_log(folder, "step")]
        if values:
            start = run_folder.read_log(folder, "start")[0]
            speeds.append(np.median(values) / start["world"])
    return float(np.median(speeds)) if speeds else None


def ratios(rows, runs):
    """The three ratios of section 5.6 for which there are rows. rows: {name: row}. runs: a folder
    of pretrainings, or None.
    """
    shares = {}
    if inpaint := rows.get("inpaint"):
        for name in rows.keys() & {"noise", "jitter"}:
            shares[f"inpaint_over_{name}"] = inpaint["latency_ms"] / rows[name]["latency_ms"]
        if speed := runs and pretraining_speed(runs):
            # One image: seconds of generating, over those of 100 epochs, in percent.
            shares["generation_share"] = inpaint["batch_ms"] / 1000 * speed
    return shares
