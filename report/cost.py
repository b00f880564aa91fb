"""What an augmentation costs and how far it takes an image from the original (Table 6).

The distance and the similarity are those of images that 02_augment.py has stored. Only the time is
measured by generating.
"""

import argparse
import contextlib
import os
import time
from pathlib import Path

import numpy as np
import torch

from augment.registry import STRATEGIES
from base import parallel, run, run_folder
from evaluate.feature_statistics import load_features, moments_of_files, warn_if_few
from evaluate.ssim import similarities
from images.matching import matched, mirror_root, spread
from images.pairs import mirrors_of
from images.read import UnreadableImage
from models import fid
from report.published import cost_table
from report.results import read_runs


# ---------------------------------------------------------------- time
def rebuild(noted, device):
    """The Strategy that made a mirror. noted: what the mirror's augment.json says."""
    entry = STRATEGIES[noted["strategy"]]
    flags = run.parser("")
    entry.add_arguments(flags)
    run.device_arguments(flags)
    args = vars(flags.parse_args([])) | noted["args"]
    return entry.build(argparse.Namespace(**args), device)


def milliseconds(strategy, images, paths, batch, device):
    """Time for one generated image in batches of `batch`, from uint8 tensor to uint8 tensor."""
    batches = []
    for i in range(0, len(paths), batch):
        batches.append((images[i : i + batch], paths[i : i + batch]))
    warm_up = 3 if batch > 1 else 10
    for one in batches[:warm_up]:
        strategy.generate(*one)
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for one in batches:
        strategy.generate(*one)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return 1000 * seconds / (len(paths) * len(strategy.views))


def read_all(strategy, data, paths):
    """(uint8 (B, S, S, 3), paths) of the images that can be read."""
    images = {}
    for path in paths:
        with contextlib.suppress(UnreadableImage):  # `quality_of` has named it
            images[path] = strategy.read(Path(data, path))
    return torch.from_numpy(np.stack(list(images.values()))), list(images)


def time_of(noted, data, paths, batch, device):
    """{latency_ms, batch_ms, parameters}: of one image alone, and of one image in batches."""
    if noted["strategy"] not in STRATEGIES:
        run.warn(f"{noted['folder']}: {noted['strategy']} is not known here, it is not timed.")
        return {"latency_ms": None, "batch_ms": None, "parameters": noted.get("parameters")}
    strategy = rebuild(noted, device)
    found = {"parameters": strategy.parameters}
    if parallel.rank() == 0:
        images, paths = read_all(strategy, data, paths)
        found["latency_ms"] = milliseconds(strategy, images, paths, 1, device)
        found["batch_ms"] = milliseconds(strategy, images, paths, batch, device)
    parallel.barrier()
    return found


# ---------------------------------------------------------------- distance and similarity
def quality_of(views, data, features, known, args, device, name):
    """{fid, ssim, images}: of the stored images of all views of a mirror and their originals.

    known: {originals: their moments}, from the mirrors before this one.
    """
    first, second = [], []
    for view in views:
        pairs = spread(matched(data, view), args.compare)
        first += [os.path.join(data, original) for original, _ in pairs]
        second += [os.path.join(view, generated) for _, generated in pairs]
    originals = tuple(dict.fromkeys(first))  # they are the same for every view
    how = (features, args, device)
    if originals not in known:
        known[originals] = moments_of_files(originals, *how, "originals")
    _, *of_originals = known[originals]
    _, *of_generated = moments_of_files(second, *how, name)
    values = similarities(list(zip(first, second, strict=True)), args, name)
    return {
        "fid": fid.frechet_distance(*of_originals, *of_generated),
        "ssim": float(np.nanmean(values)),
        "images": known[originals][0],
        "unreadable": len(originals) - known[originals][0],
    }


# ---------------------------------------------------------------- all rows
def name_of(folder):
    """The name of a mirror's row: its folder's, such as inpaint or diffusion/strength0.2."""
    return str(Path(folder).resolve().relative_to(mirror_root(folder).parent))


def measure_row(folder, features, known, args, device):
    """All that Table 6 says of one mirror. known: see `quality_of`."""
    views, (noted,) = mirrors_of([folder], 1)
    data = args.data or noted["args"]["data"]
    name = name_of(folder)
    row = quality_of(views, data, features, known, args, device, name)
    paths = [original for original, _ in matched(data, views[0])]
    timed = spread(spread(paths, args.compare), args.images)
    row |= time_of(noted, data, timed, args.batch_size, device)
    gpu = device.type == "cuda"
    return row | {
        "strategy": noted["strategy"],
        "made_by": made_by(noted),
        "timed": len(timed),
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
    }


def made_by(noted):
    """What tells one mirror from another: the arguments and inputs that it was made with."""
    return {"args": noted["args"], "inputs": noted.get("inputs", {})}


def pretraining_speed(args):
    """(images/s of pretraining, on how many devices), or None.

    It is given by a flag, or it is the median over the logs of the runs below --runs.
    """
    if args.pretrain_images_per_second:
        return args.pretrain_images_per_second, args.pretrain_gpus
    if not args.runs:
        return None
    speeds = []
    for file in Path(args.runs).rglob("args.json"):
        if run.read_json(file).get("stage") != "03_pretrain":
            continue
        steps = [step.get("images_per_second") for step in run_folder.read_log(file.parent, "step")]
        steps = [speed for speed in steps if speed]
        if steps:
            devices = run_folder.read_log(file.parent, "start")[0]["world"]
            speeds.append((float(np.median(steps)), devices))
    speeds.sort()
    return speeds[len(speeds) // 2] if speeds else None


def ratios(rows, speed):
    """The three ratios of section 5.6, as far as there are rows for them.

    rows: {name: row}. speed: (images/s of pretraining, devices) or None.
    """
    latency, batch = {}, {}
    for row in rows.values():
        if row["latency_ms"]:
            latency.setdefault(row["strategy"], row["latency_ms"])
            batch.setdefault(row["strategy"], row["batch_ms"])
    found = {}
    if "inpaint" in latency:
        for name in ("noise", "jitter"):
            if name in latency:
                found[f"inpaint_over_{name}"] = latency["inpaint"] / latency[name]
        if speed:
            images_per_second, devices = speed
            generating = batch["inpaint"] / 1000 / devices  # seconds for one image
            training = 100 / images_per_second  # seconds for one image in 100 epochs
            found["generation_share"] = 100 * generating / training
    return found


def open_cost(args):
    """(the folder, what its cost.json holds); the folder belongs to one set of arguments."""
    out = Path(args.out)
    compared = ("size", "compare", "images", "batch_size", "features", "precision", "data")
    if parallel.rank() == 0:
        identity = {
            "stage": "07_metrics cost",
            "args": {name: getattr(args, name) for name in compared},
        }
        run_folder.write_or_check(out / "args.json", identity, "a folder of 07_metrics.py cost")
    parallel.barrier()
    file = out / "cost.json"
    found = run.read_json(file) if file.exists() else {"rows": {}}
    parallel.barrier()  # every process has read it before process 0 writes
    return out, found


def measure(args, device):
    """Measure the mirrors that cost.json has no row for; print Table 6."""
    _, noted = mirrors_of(args.mirrors, 1)
    names = [name_of(folder) for folder in args.mirrors]
    if len(set(names)) < len(names):
        run.fail(f"Two mirrors have one name ({' '.join(names)}): rows are named after them.", 2)
    for mirror in noted if args.data is None else ():
        run.keep_apart(mirror["args"]["data"], out=args.out)
    out, found = open_cost(args)
    missing = {}
    for name, folder, mirror in zip(names, args.mirrors, noted, strict=True):
        row = found["rows"].get(name)
        if row is None or row["made_by"] != made_by(mirror):
            missing[name] = folder
    features = load_features(args, device) if missing else None
    known = {}
    for name, folder in missing.items():
        row = measure_row(folder, features, known, args, device)
        warn_if_few(row["images"], features, folder)
        found["rows"][name] = row
        found["features"] = features.settings
        if parallel.rank() == 0:
            run.write_json(out / "cost.json", found)
    if parallel.rank() == 0:
        found["ratios"] = ratios(found["rows"], pretraining_speed(args))
        run.write_json(out / "cost.json", found)
        text, _ = cost_table(found, read_runs(args.runs) if args.runs else [])
        run.write_text(out / "cost.txt", text + "\n")
        print(text)
    parallel.barrier()
