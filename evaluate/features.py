"""Frozen features: crops of images, extraction over several processes, nearest neighbours.

One path for all evaluations. Images are dealt to the processes in whole batches. A process keeps
the features of its images, and what is summed over images is summed over the processes: any number
of processes gives the same result.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from base import parallel, run
from base.parallel import rank, world
from images import views
from images.files import STRIP, read_ahead, without_ends
from images.labelled import part, read_splits
from images.unreadable import BLACK, ImageList, listed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and sd of pixels in [0, 1]
TRAIN_ROWS, VAL_ROWS = 16384, 1024  # one product of the nearest neighbours: 64 MiB of cosines


# ---------------------------------------------------------------- crops
# A crop is a function of (image, epoch, index): uint8 (H, W, 3) -> uint8 (size, size, 3).
def resize(image, height, width, interpolation="bilinear"):
    """uint8 (H, W, 3) -> (height, width, 3), antialiased as in PIL."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (height, width), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def resize_shorter(image, short, interpolation="bilinear"):
    """The shorter side to `short` pixels, the aspect kept."""
    height, width = image.shape[:2]
    least = min(height, width)
    height = max(short, int(short * height / least))
    width = max(short, int(short * width / least))
    return resize(image, height, width, interpolation)


def centre_crop(image, epoch, index, *, size, interpolation="bilinear"):
    """Shorter side to 256 / 224 of `size`, then the centre; an image of that very size is kept."""
    if image.shape[:2] == (size, size):
        return image
    image = without_ends(image)  # of a long strip only the middle is needed
    resized = resize_shorter(image, round(256 * size / 224), interpolation)
    top = round((resized.shape[0] - size) / 2)
    left = round((resized.shape[1] - size) / 2)
    return resized[top : top + size, left : left + size]


def squash(image, epoch, index, *, size):
    """Shorter side to 256 / 224 of `size`, then both sides to `size`: nothing is cut off.

    This is what VISSL does for VOC07. An image of that very size is kept.
    """
    if image.shape[:2] == (size, size):
        return image
    if max(image.shape[:2]) <= STRIP * min(image.shape[:2]):
        image = resize_shorter(image, round(256 * size / 224))  # of a long strip it would be huge
    return resize(image, size, size)


def random_crop(image, epoch, index, *, size, seed, scale=(0.08, 1.0), flip=True):
    """Random-resized crop and flip; a function of (seed, epoch, index) alone.

    scale: smallest and largest share of the image's area.
    """
    rng = run.seed_rng(seed, epoch, index, "crop")
    box = views.draw_box(scale, *image.shape[:2], rng)
    crop = views.resized_crop(image, box, size, "bilinear")
    if flip and rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
    return crop


def centre_then_random(image, epoch, index, *, size, interpolation="bilinear"):
    """The centre crop in epoch 0, random crops in all others."""
    if epoch == 0:
        return centre_crop(image, epoch, index, size=size, interpolation=interpolation)
    return random_crop(image, epoch, index, size=size, seed=0)


# ---------------------------------------------------------------- reading
def read_crops(batch, files, crop, stand_in=True):
    """batch: a list of (epoch, index); files: an ImageList.

    Returns uint8 (B, S, S, 3) and the indices (B,) of the images in it. Where an image cannot be
    read, the next one stands in, with its index; without `stand_in` it is black, its index -1.
    """
    crops, indices = [], []
    for epoch, index in batch:
        if stand_in:
            image, place = files.read_or_next(index)
        else:
            image, place = files.read(index), index
            if image is None:
                image, place = BLACK, -1
        image = np.require(image, requirements="W")  # torch wants it writable
        crops.append(crop(image, epoch, index))
        indices.append(place)
    return torch.from_numpy(np.stack(crops)), torch.tensor(indices)


def read_batches(files, batches, crop, workers, device, stand_in=True):
    """Iterate over what `read_crops` makes of `batches`, lists of (epoch, index)."""
    read = partial(read_crops, files=files, crop=crop, stand_in=stand_in)
    return read_ahead(batches, read, workers, device)


def normalise(pixels, device, backbone):
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in channels_last, as the backbone was trained.

    SimCLR's backbones, for one, have seen pixels in [0, 1]; ImageNet's mean and standard deviation
    stand for all whose training says nothing.
    """
    mean, std = getattr(backbone, "normalisation", IMAGENET)
    mean = 255 * torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
    std = 255 * torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1)
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


def free_memory(device):
    """Bytes of a GPU that tensors can take; what PyTorch holds in reserve counts as free."""
    free, _ = torch.cuda.mem_get_info(device)
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + reserve


def home_of(rows, width, device):
    """Where float32 (rows, width) is kept: on the device, or on the CPU if it fills most of it."""
    if device.type == "cpu":
        return device
    fits = 4 * rows * width < 0.6 * free_memory(device)
    return device if fits else torch.device("cpu")


def own_batches(n, batch, passes):
    """This process's batches of n images, lists of (epoch, index), for every epoch the same."""
    starts = range(0, n, batch)[rank() :: world()]
    batches = []
    for epoch in range(passes):
        for start in starts:
            indices = range(start, min(start + batch, n))
            batches.append([(epoch, index) for index in indices])
    return batches


def extract(
    backbone, files, crop, device, precision="auto", workers=8, passes=1, batch=128, what="features"
):
    """Features float32 (m, width) of this process's share of the files, and their indices (m,).

    files: an ImageList, whose unreadable images are left out, or files that must all be readable.
    The backbone is used in evaluation mode and is not changed. Features that would fill most of a
    GPU's memory stay on the CPU; the indices are always there. passes: every file is read as often,
    with the epochs 0, 1, ...; the features of an epoch stand together. Ends all processes where
    features are not finite, and names the first such image.
    """
    if not isinstance(files, ImageList):
        files = ImageList("", files)
    batches = own_batches(len(files), batch, passes)
    most = sum(map(len, batches))
    backbone = backbone.eval().to(device, memory_format=torch.channels_last)
    example, _ = read_crops([(0, 0)], files, crop)
    width = embed(backbone, example, device).shape[1]
    home = home_of(most, width, device)
    features = torch.empty(most, width, device=home)
    finite = torch.ones(most, dtype=torch.bool, device=home)
    rows = [torch.empty(0, dtype=torch.int64)]
    total = passes * len(files)
    with run.progress(total, what) as bar:
        end = 0
        for pixels, indices in read_batches(files, batches, crop, workers, device, stand_in=False):
            found = embed(backbone, pixels, device, precision)
            read = indices.numpy() >= 0
            if not read.all():
                read = torch.from_numpy(read)
                found = found[read.to(device)]
                indices = indices[read]
            rows.append(indices)
            begin, end = end, end + len(indices)
            features[begin:end] = found
            finite[begin:end] = found.isfinite().all(1)
            bar.update(min(world() * batch, total - bar.n))
    rows = torch.cat(rows)
    refuse_infinite(files, rows, finite[:end].cpu())
    return features[:end], rows


def refuse_infinite(files, rows, finite):
    """End all processes if features of any are not finite. rows, finite (m,): of this process."""
    found = sum(parallel.everyone(rows[~finite].tolist()), [])
    if found:
        run.fail(
            f"The features of {len(found)} images are not finite (NaN or infinite), the first is "
            f"{files.file(min(found))}. Try --precision fp32, or another backbone."
        )


def extract_all(backbone, files, crop, device, *args, **kwargs):
    """(features float32 (m, width), indices (m,)) of all files that can be read, on every process
    and on the device, in the order of the files; as `extract`.
    """
    features, rows = extract(backbone, files, crop, device, *args, **kwargs)
    whole = parallel.collect(features.to(device), rows.to(device), len(files))
    if sum(parallel.everyone(len(rows))) == len(files):
        return whole, torch.arange(len(files))
    rows = torch.tensor(sorted(sum(parallel.everyone(rows.tolist()), [])))
    return whole[rows.to(device)], rows


def extract_split(backbone, split, name, args, crop, device, **kwargs):
    """(features of `extract_all`, the part of a labelled split that could be read)."""
    files = listed(split.files, args, name)
    features, rows = extract_all(
        backbone, files, crop, device, args.precision, args.workers, **kwargs
    )
    return features, part(split, rows)


# ---------------------------------------------------------------- nearest neighbours
def accuracy(scores, labels, k=(1, 5)):
    """Top-k accuracies, percent, of scores (n, classes); with fewer than k classes it is 100."""
    most = min(max(k), scores.shape[1])
    guesses = scores.topk(most, 1).indices
    hits = guesses == labels.to(scores.device)[:, None]
    found = []
    for n in k:
        share = hits[:, :n].any(1).double().mean()
        found.append(100 * share.item())
    return found


def knn(train, labels, val, classes, k=20, temperature=0.07):
    """Votes (n, classes) of the k nearest training features, weighted by exp(cosine / temperature).

    DINO's eval_knn.py. train (m, d), labels (m,): of this process's images, on any device. val
    (n, d): the same on all processes. The votes are on the device of val.
    """
    n, device = len(val), val.device
    val = F.normalize(val, dim=1)
    # The k nearest so far. With fewer than k images the rest keeps the cosine -inf, the weight 0.
    cosines = val.new_full((n, k), -torch.inf)
    owners = torch.zeros(n, k, dtype=torch.int64, device=device)
    for x, y in zip(train.split(TRAIN_ROWS), labels.split(TRAIN_ROWS), strict=True):
        x = F.normalize(x.to(device), dim=1)
        y = y.to(device)
        for start in range(0, n, VAL_ROWS):
            part = slice(start, start + VAL_ROWS)
            scores = val[part] @ x.T
            found, indices = scores.topk(min(k, len(x)), 1)
            near = torch.cat([cosines[part], found], 1)
            whose = torch.cat([owners[part], y[indices]], 1)
            cosines[part], best = near.topk(k, 1)
            owners[part] = whose.gather(1, best)
    cosines, owners = nearest_of_all(cosines, owners)
    weights = (cosines / temperature).exp()
    votes = val.new_zeros(n, classes)
    return votes.scatter_add_(1, owners, weights)


def nearest_of_all(cosines, owners):
    """The k largest cosines (n, k) over all processes, and the labels that belong to them."""
    n, k = cosines.shape
    near = cosines.new_zeros(n, world(), k)
    whose = owners.new_zeros(n, world(), k)
    near[:, rank()] = cosines
    whose[:, rank()] = owners
    parallel.barrier()
    near = parallel.all_sum(near).flatten(1)
    whose = parallel.all_sum(whose).flatten(1)
    cosines, best = near.topk(k, 1)
    return cosines, whose.gather(1, best)


def check_probe(root):
    """End the run if `knn_probe` could not use the folder."""
    read_splits(root)


def knn_probe(backbone, args, device):
    """kNN top-1 in percent, from args.knn/train to args.knn/val; the backbone's mode is put back.

    args: those of 03_pretrain.py.
    """
    data = read_splits(args.knn)
    training = backbone.training
    crop = partial(centre_crop, size=args.size)
    files = listed(data.train.files, args, "knn train")
    train, rows = extract(backbone, files, crop, device, args.precision, args.workers)
    val, read = extract_split(backbone, data.val, "knn val", args, crop, device)
    backbone.train(training)
    votes = knn(train, data.train.labels[rows], val, len(data.classes))
    return accuracy(votes, read.labels)[0]
