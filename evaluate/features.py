"""Frozen features: crops of images, extraction over several processes, nearest neighbours.

Used by 03 (its probe), 04, 05, 06, evaluate/frechet.py, evaluate/sgd.py and the strategy
`neighbour`: one path for all evaluations. Images are dealt to the processes in whole batches. A
process keeps the features of its images, and what is summed over images is summed over the
processes: any number of processes gives the same result.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from base import parallel, run
from base.parallel import rank, world
from images import views
from images.files import read_ahead
from images.labelled import read_splits
from images.pictures import STRIP, without_ends
from images.unreadable import BLACK, listed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and sd of pixels in [0, 1]
TRAIN_ROWS = 1024  # in one product of the nearest neighbours: 200 MiB of cosines for ImageNet


# ---------------------------------------------------------------- crops
# A crop is a function of (image, epoch, index): uint8 (H, W, 3) -> uint8 (size, size, 3).
def resize(image, height, width, interpolation="bilinear"):
    """uint8 (H, W, 3) -> (height, width, 3), antialiased as in PIL."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (height, width), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def resize_shorter(image, short, interpolation="bilinear"):
    """The shorter side to `short` pixels, the aspect kept."""
    sides = image.shape[:2]
    height, width = [max(short, int(short * side / min(sides))) for side in sides]
    return resize(image, height, width, interpolation)


def centre_crop(image, epoch, index, *, size, interpolation="bilinear"):
    """Shorter side to 256 / 224 of `size`, then the centre; an image of that very size is kept."""
    if image.shape[:2] == (size, size):
        return image
    image = without_ends(image)  # of a long strip only the middle is needed
    resized = resize_shorter(image, round(256 * size / 224), interpolation)
    height, width = resized.shape[:2]
    top = round((height - size) / 2)
    left = round((width - size) / 2)
    return resized[top : top + size, left : left + size]


def interpolation_of(method):
    """How an evaluation resizes crops: SimCLR's tf2/data_util.py, BYOL's utils/dataset.py."""
    return "bicubic" if method in ("simclr", "byol") else "bilinear"


def crop_of(method, size):
    """`centre_crop` as a method's own evaluation makes it; DINO: eval_linear.py, eval_knn.py."""
    interpolation = "bicubic" if method == "dino" else interpolation_of(method)
    return partial(centre_crop, size=size, interpolation=interpolation)


def squash(image, epoch, index, *, size):
    """Shorter side to 256 / 224 of `size`, then both sides to `size`: nothing is cut off.

    This is what VISSL does for VOC07. An image of that very size is kept.
    """
    if image.shape[:2] == (size, size):
        return image
    sides = image.shape[:2]
    if max(sides) <= STRIP * min(sides):
        image = resize_shorter(image, round(256 * size / 224))  # of a long strip it would be huge
    return resize(image, size, size)


def random_crop(
    image, epoch, index, *, size, seed, scale=(0.08, 1.0), flip=True, interpolation="bilinear"
):
    """Random-resized crop and flip; a function of (seed, epoch, index) alone.

    scale: smallest and largest share of the image's area.
    """
    rng = run.seed_rng(seed, epoch, index, "crop")
    height, width = image.shape[:2]
    box = views.draw_box(scale, height, width, rng)
    crop = views.resized_crop(image, box, size, interpolation)
    if flip and rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
    return crop


# ---------------------------------------------------------------- reading
def read_crops(batch, files, crop, stand_in=True):
    """batch: a list of (epoch, index); files: an ImageList.

    Returns a uint8 tensor (B, S, S, 3) and the indices of the images in it, int64 (B,) in numpy.
    Where an image cannot be read, the next one stands in, with its index; without `stand_in` it is
    black, its index -1.
    """
    crops = []
    indices = []
    for epoch, index in batch:
        shown = index
        if stand_in:
            image, shown = files.read_or_next(index)
        else:
            image = files.read(index)
            if image is None:
                image = BLACK
                shown = -1
        image = np.require(image, requirements="W")  # torch wants it writable
        crops.append(crop(image, epoch, index))
        indices.append(shown)
    pixels = np.stack(crops)
    return torch.from_numpy(pixels), np.array(indices)


def read_batches(files, batches, crop, workers, device, stand_in=True):
    """Iterate over what `read_crops` makes of `batches`, lists of (epoch, index)."""
    read = partial(read_crops, files=files, crop=crop, stand_in=stand_in)
    return read_ahead(batches, read, workers, device)


def normalise(pixels, device, backbone):
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in channels_last, as the backbone was trained.

    SimCLR's backbones, for one, have seen pixels in [0, 1]; ImageNet's mean and standard deviation
    stand for all whose training says nothing.
    """
    of_channels = getattr(backbone, "normalisation", IMAGENET)
    statistics = 255 * torch.tensor(of_channels, dtype=torch.float32)
    mean, std = statistics.view(2, 1, 3, 1, 1)
    pixels = pixels.to(device, non_blocking=True)
    pixels = pixels.permute(0, 3, 1, 2).float()
    pixels -= mean.to(device, non_blocking=True)
    pixels /= std.to(device, non_blocking=True)
    return pixels


# ---------------------------------------------------------------- extraction
def embed(backbone, pixels, device, precision="auto"):
    """Features float32 (B, width) of uint8 (B, S, S, 3), without gradients.

    precision: as --precision, but `auto` is float32 on a CPU.
    """
    if device.type == "cpu" and precision == "auto":
        precision = "fp32"
    with torch.no_grad(), run.autocast(device, precision):
        return backbone(normalise(pixels, device, backbone)).float()


def home_of(rows, width, device):
    """Where float32 (rows, width) is kept: on the device, or on the CPU if it fills most of it.

    What PyTorch holds in reserve of a GPU's memory counts as free.
    """
    if device.type == "cpu":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    free -= torch.cuda.memory_allocated(device)
    if 4 * rows * width < 0.6 * free:
        return device
    return torch.device("cpu")


def extract(
    backbone,
    files,
    crop,
    device,
    precision="auto",
    workers=8,
    *,
    batch=128,
    what="features",
    everywhere=False,
):
    """Features float32 (m, width) of this process's share of the files; their indices (m,), numpy.

    files: an ImageList, whose unreadable images are left out.
    The backbone is used in evaluation mode and is not changed. Features that would fill most of a
    GPU's memory stay on the CPU. everywhere: those of all files instead, on every process and on
    the device, in the order of the files. Ends all processes where features are not finite, and
    names the first such image.
    """
    n = len(files)
    starts = range(0, n, batch)[rank() :: world()]
    mine = [range(n)[start : start + batch] for start in starts]
    batches = ([(0, index) for index in part] for part in mine)
    most = sum(map(len, mine))
    backbone = backbone.eval().to(device, memory_format=torch.channels_last)
    example, _ = read_crops([(0, 0)], files, crop)
    width = embed(backbone, example, device).shape[1]
    features = torch.empty(most, width, device=home_of(most, width, device))
    rows = np.empty(most, np.int64)
    end = 0
    with run.progress(n, what) as bar:
        loader = read_batches(files, batches, crop, workers, device, stand_in=False)
        for pixels, indices in loader:
            read = np.flatnonzero(indices >= 0)
            begin = end
            end += len(read)
            rows[begin:end] = indices[read]
            features[begin:end] = embed(backbone, pixels, device, precision)[read]
            bar.update(min(world() * batch, bar.total - bar.n))
    features = features[:end]
    rows = rows[:end]
    finite = features.sum(1).isfinite()
    refuse_infinite(lambda i: files.file(rows[i]), finite)
    if not everywhere:
        return features, rows
    if world() == 1:
        return features.to(device), rows  # no second copy: ImageNet's take 10 GB
    every_row = np.concatenate(parallel.everyone(rows))
    every_row.sort()
    places = np.searchsorted(every_row, rows)
    there = torch.from_numpy(places).to(device)
    collected = parallel.collect(features.to(device), there, len(every_row))
    return collected, every_row


class Settings(NamedTuple):
    """How a stage makes features of labelled images.

    crop, device, precision, workers: for `extract`, in its order. share: of the images that may be
    unreadable. out: the run folder, where these are recorded.
    """

    crop: Callable
    device: torch.device
    precision: str
    workers: int
    share: float
    out: str


def extract_split(backbone, split, name, how, everywhere=False):
    """`extract` for a labelled split. how: the Settings. name: of its unreadable images' list."""
    files = listed(split.files, how.share, how.out, name)
    return extract(backbone, files, *how[:4], what=f"{name} features", everywhere=everywhere)


def extract_val(backbone, data, how):
    """(features of the images of val that can be read, on every process, the Labelled with these
    alone in val).
    """
    val, rows = extract_split(backbone, data.val, "val", how, everywhere=True)
    return val, data._replace(val=data.val.take(rows))


def refuse_infinite(file_of, finite):
    """End all processes if features are not finite. finite: bool (m,), of the files file_of(0..)
    of this process.
    """
    infinite = [file_of(i) for i in finite.logical_not().nonzero().flatten().tolist()]
    bad = sum(parallel.everyone(infinite), [])
    if bad:
        run.fail(
            f"The features of {len(bad)} images are not finite (NaN or infinite), the first is "
            f"{min(bad)}: the network's weights are damaged, or --precision fp32 is needed."
        )


# ---------------------------------------------------------------- nearest neighbours
def accuracy(scores, labels):
    """Top-1 and top-5, percent, of scores (n, classes); with fewer than 5 classes top-5 is 100."""
    most = min(5, scores.shape[1])
    guesses = scores.topk(most, 1).indices
    labels = torch.as_tensor(labels, device=scores.device)
    hits = guesses == labels[:, None]
    percent = []
    for n in (1, 5):
        share = hits[:, :n].any(1).double().mean()
        percent.append(100 * share.item())
    return percent


def knn(train, labels, val, classes, k=20, temperature=0.07):
    """Votes (n, classes) of the k nearest training features, weighted by exp(cosine / temperature).

    DINO's eval_knn.py. train (m, d), labels (m,): of this process's images, on any device. val
    (n, d): the same on all processes. The votes are on the device of val.
    """
    labels = torch.as_tensor(labels)
    n = len(val)
    device = val.device
    val = F.normalize(val, dim=1)
    # The k nearest so far. With fewer than k images the rest keeps the cosine -inf, the weight 0.
    cosines = val.new_full((n, k), -torch.inf)
    owners = torch.zeros(n, k, dtype=torch.int64, device=device)
    chunks = zip(train.split(TRAIN_ROWS), labels.split(TRAIN_ROWS), strict=True)
    for x, y in chunks:
        x = F.normalize(x.to(device), dim=1)
        y = y.to(device)
        of_chunk = val @ x.T
        largest, indices = of_chunk.topk(min(k, len(x)), 1)
        near = torch.cat([cosines, largest], 1)
        whose = torch.cat([owners, y[indices]], 1)
        cosines, owners = nearest_of(near, whose, k)
    # The same over the processes.
    near, whose = [side_by_side(part) for part in (cosines, owners)]
    cosines, owners = nearest_of(near, whose, k)
    weights = (cosines / temperature).exp()
    votes = val.new_zeros(n, classes)
    return votes.scatter_add_(1, owners, weights)


def nearest_of(cosines, owners, k):
    """The k largest of the cosines (n, m) in each row, and the labels that belong to them."""
    cosines, best = cosines.topk(k, 1)
    return cosines, owners.gather(1, best)


def side_by_side(x):
    """x (n, k) of all processes: (n, k * number of processes)."""
    every = parallel.collect(x[None], rank(), world())
    return every.transpose(0, 1).flatten(1)


def knn_probe(backbone, folder, how):
    """kNN top-1 in percent, from folder/train to folder/val; the backbone's mode is put back.

    how: the Settings.
    """
    data = read_splits(folder)
    training = backbone.training
    train, rows = extract_split(backbone, data.train, "knn train", how)
    val, val_rows = extract_split(backbone, data.val, "knn val", how, everywhere=True)
    backbone.train(training)
    labels = data.train.labels[rows]
    votes = knn(train, labels, val, len(data.classes))
    top1, _ = accuracy(votes, data.val.labels[val_rows])
    return top1
