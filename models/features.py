"""Frozen features: labelled folders, crops, extraction over several processes, and what results look like.

One path for all evaluations. Images are dealt to the processes in whole batches; a process keeps the features
of its images, and whatever is summed over images is summed over processes: any number of them gives the same.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from models.images import class_of, find_images, read_image
from models.old_run import (
    atomic,
    autocast,
    fail,
    progress,
    rank,
    read_json,
    seed_rng,
    world,
    write_json,
)
from models.views import draw_box, resized_crop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---------------------------------------------------------------------- images and crops
def read_folder(root):
    """(paths, class names) of the images ROOT/CLASS/.../image."""
    paths = find_images(root)
    names = [class_of(path) for path in paths]
    if "" in names:
        fail(
            f"{root}/{paths[names.index('')]} is in no class folder: expected {root}/CLASS/image.",
            2,
        )
    with os.scandir(root) as entries:
        empty = {e.name for e in entries if e.is_dir() and not e.name.startswith(".")} - set(names)
    if empty:
        fail(f"{root} has class folders without images: {', '.join(sorted(empty)[:5])}.", 2)
    return [os.path.join(root, path) for path in paths], names


def read_splits(root, val="val"):
    """Classes and ((files, labels) of ROOT/train, (files, labels) of ROOT/val); labels: int64 tensors."""
    folders = [read_folder(Path(root) / split) for split in ("train", val)]
    classes = [sorted(set(names)) for _, names in folders]
    only = sorted(set(classes[0]) ^ set(classes[1]))
    if only:
        fail(
            f"{root}: train and {val} have different classes; only one of them has {', '.join(only[:5])}"
            f"{' ...' if len(only) > 5 else ''}.",
            2,
        )
    number = {name: i for i, name in enumerate(classes[0])}
    return classes[0], *(
        (paths, torch.tensor([number[name] for name in names])) for paths, names in folders
    )


def centre_crop(image, epoch, index, *, size):
    """Shorter side to 256 / 224 of `size` (bilinear), centre crop; an image of that very size is kept."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    short = round(256 * size / 224)
    height, width = (max(short, int(short * side / min(height, width))) for side in (height, width))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)[0].permute(
        1, 2, 0
    )
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[top : top + size, left : left + size].numpy()


def squash(image, epoch, index, *, size):
    """Both sides to `size`, nothing cut off (VISSL's VOC07 protocol)."""
    return resized_crop(image, (0, 0, *image.shape[:2]), size, "bilinear")


def random_crop(image, epoch, index, *, size, seed):
    """Random-resized crop (area 8 to 100 %) and flip; a function of (seed, epoch, index) alone."""
    rng = seed_rng(seed, epoch, index, "crop")
    crop = resized_crop(image, draw_box((0.08, 1.0), *image.shape[:2], rng), size, "bilinear")
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


class Batches(torch.utils.data.Dataset):
    """Whole batches: asked for with a list of (epoch, index), gives uint8 (B, S, S, 3) and indices (B)."""

    def __init__(self, files, crop):
        self.files, self.crop = files, crop

    def __getitem__(self, batch):
        images = [np.require(read_image(self.files[index]), requirements="W") for _, index in batch]
        images = [self.crop(image, *place) for image, place in zip(images, batch, strict=True)]
        return torch.from_numpy(np.stack(images)), torch.tensor([index for _, index in batch])


def loader(files, crop, batches, workers, device):
    """A DataLoader over `batches`, lists of (epoch, index)."""
    return torch.utils.data.DataLoader(
        Batches(files, crop),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )


def normalise(images, device):
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in channels_last on the device; ImageNet's mean and sd."""
    scale = [
        torch.tensor(v).mul(255).view(1, 3, 1, 1).to(device, non_blocking=True) for v in (MEAN, STD)
    ]
    return (
        images.to(device, non_blocking=True)
        .permute(0, 3, 1, 2)
        .float()
        .sub_(scale[0])
        .div_(scale[1])
    )


# ---------------------------------------------------------------------- over the processes
def total(tensor):
    """The sum over all processes, in place."""
    if world() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gather(values, rows, n):
    """(n, ...) on every process from each process's `values` at `rows`."""
    everything = values.new_zeros(n, *values.shape[1:])
    everything[rows] = values
    return total(everything)


def embed(backbone, images, device, precision="auto"):
    """Features float32 (B, width) of uint8 (B, S, S, 3), without gradients. `auto` is float32 on a CPU."""
    precision = "fp32" if device.type == "cpu" and precision == "auto" else precision
    with torch.no_grad(), autocast(device, precision):
        return backbone(normalise(images, device)).float()


def extract(
    backbone, files, crop, device, precision="auto", workers=8, epoch=0, batch=128, what="features"
):
    """Features float32 (m, width) of this process's share of the files, and their indices (m), on the device.

    The backbone is used in evaluation mode and is not changed. Features that would fill most of a GPU's memory
    stay on the CPU."""
    cut = [
        [(epoch, i) for i in range(at, min(at + batch, len(files)))]
        for at in range(0, len(files), batch)
    ]
    mine = cut[rank() :: world()]
    rows = torch.tensor([i for one in mine for _, i in one], dtype=torch.int64)
    backbone = backbone.eval().to(device, memory_format=torch.channels_last)
    with progress(len(files), what) as bar:
        width = embed(backbone, torch.zeros(1, 64, 64, 3, dtype=torch.uint8), device).shape[1]
        fits = (
            device.type == "cpu" or 4 * len(rows) * width < 0.6 * torch.cuda.mem_get_info(device)[0]
        )
        home, at = device if fits else torch.device("cpu"), 0
        features = torch.empty(len(rows), width, device=home)
        for images, indices in loader(files, crop, mine, workers, device):
            features[at : at + len(indices)] = embed(backbone, images, device, precision)
            at += len(indices)
            bar.update(min(world() * batch, len(files) - bar.n))
    return features, rows.to(home)


# ---------------------------------------------------------------------- kNN and accuracy
def accuracy(scores, labels, k=(1, 5)):
    """Top-k accuracies, percent, of scores (n, classes); a k beyond the number of classes is that number."""
    hits = scores.topk(min(max(k), scores.shape[1]), 1).indices == labels[:, None]
    return [100 * hits[:, :n].any(1).double().mean().item() for n in k]


def knn(train, labels, val, classes, k=20, temperature=0.07):
    """Votes (n, classes) of the k nearest training features, weighted by exp(cosine / temperature).

    DINO's eval_knn.py. train (m, d), labels (m): of this process's images; val (n, d): the same on all."""
    train, votes = F.normalize(train, dim=1), []
    there = int(total(torch.tensor(len(train), device=train.device)))
    for part in F.normalize(val, dim=1).split(1000):
        found = min(k, len(train))
        values, indices = (part @ train.T).topk(found, 1)
        near, whose = part.new_zeros(world(), len(part), k), labels.new_zeros(world(), len(part), k)
        near[rank(), :, found:] = -torch.inf
        near[rank(), :, :found], whose[rank(), :, :found] = values, labels[indices]
        near, whose = (total(t).movedim(0, 1).flatten(1) for t in (near, whose))
        values, indices = near.topk(min(k, there), 1)
        weights = (values / temperature).exp()
        votes.append(
            part.new_zeros(len(part), classes).scatter_add_(1, whose.gather(1, indices), weights)
        )
    return torch.cat(votes)


def knn_probe(backbone, root, size, device, precision="auto", workers=8):
    """kNN top-1 in percent, from ROOT/train to ROOT/val; the backbone stays in the mode it is in."""
    classes, (files, labels), (val_files, val_labels) = read_splits(root)
    training, crop = backbone.training, partial(centre_crop, size=size)
    train, rows = extract(backbone, files, crop, device, precision, workers)
    val = gather(*extract(backbone, val_files, crop, device, precision, workers), len(val_files))
    backbone.train(training)
    votes = knn(train, labels.to(rows.device)[rows], val, len(classes))
    return accuracy(votes, val_labels.to(votes.device))[0]


# ---------------------------------------------------------------------- results
def summary(values):
    """Mean, sample standard deviation (0 of one value) and the values, rounded to 4 digits."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    mean, values = round(float(np.mean(values)), 4), [round(value, 4) for value in values]
    return {"mean": mean, "sd": round(sd, 4), "values": values}


def confusion(guesses, labels, classes):
    """{class: {guessed class: number}} without the zeros, from two int64 tensors."""
    table = torch.bincount(labels * len(classes) + guesses, minlength=len(classes) ** 2).view(
        len(classes), -1
    )
    return {
        name: {classes[j]: int(row[j]) for j in row.nonzero()[:, 0].tolist()}
        for name, row in zip(classes, table.cpu(), strict=True)
    }


def per_class(table):
    """{class: percent correct} of a confusion table."""
    return {
        name: round(100 * row.get(name, 0) / sum(row.values()), 4) for name, row in table.items()
    }


def bars(path, values, title):
    """A PNG with one bar per class, sorted; values: {class: percent}."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted(values, key=values.get)
    figure, axes = plt.subplots(
        figsize=(7, max(2.5, min(0.25 * len(names), 12))), layout="constrained"
    )
    axes.barh(
        range(len(names)), [values[name] for name in names], height=0.8 if len(names) <= 60 else 1
    )
    axes.set_yticks(
        range(len(names)) if len(names) <= 60 else [], names if len(names) <= 60 else []
    )
    axes.set(xlim=(0, 100), xlabel="percent", title=title)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def write_result(out, args, info, **measured):
    """result.json: the numbers with the arguments behind them; process 0."""
    if rank() == 0:
        stage = read_json(Path(out) / "args.json")["stage"]
        about = info["args"] or {key: info[key] for key in ("source", "architecture", "left_out")}
        arguments = {
            key: value if isinstance(value, (int, float, list, type(None))) else str(value)
            for key, value in vars(args).items()
        }
        write_json(
            Path(out) / "result.json",
            {
                "stage": stage,
                "args": arguments,
                "backbone": about,
                "backbone_sha256": info["sha256"],
                **measured,
            },
        )
