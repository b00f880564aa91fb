"""Figures of the views: photographs against PIL, colour on the device, small images in memory."""

import contextlib
import io
import itertools
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from bench_tools import CPU, compare, in_batches, photographs, report
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from images import batch_views, views
from images.files import read_ahead
from images.pairs import PairDataset, SmallPairs
from models.registry import recipe_of

MEAN = views.FIRST["mean"]
STD = views.FIRST["std"]


# ---------------------------------------------------------------- photographs
def random_blur(image):
    sigma = np.random.uniform(0.1, 2.0)
    return image.filter(ImageFilter.GaussianBlur(sigma))


def published_view(blur_p, solarize_p):
    """A view as in facebookresearch/vicreg augmentations.py."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [
        transforms.RandomResizedCrop(224, interpolation=bicubic),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(0.2),
        transforms.RandomApply([random_blur], p=blur_p),
        transforms.RandomApply([ImageOps.solarize], p=solarize_p),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return transforms.Compose(steps)


def bench_views(args, device):
    first_view = published_view(blur_p=1.0, solarize_p=0.0)
    second_view = published_view(blur_p=0.1, solarize_p=0.2)
    number = 2 if args.quick else 48
    with TemporaryDirectory() as folder:
        paths = photographs(folder, number)
        all_on_cpu = PairDataset(folder, paths, recipe_of("vicreg")["views"], 224)
        crops_only = PairDataset(folder, paths, recipe_of("vicreg")["views"], 224, on_device=True)
        epochs = itertools.count()

        def official():
            for path in paths:
                with Image.open(Path(folder, path)) as file:
                    image = file.convert("RGB")
                first_view(image)
                second_view(image)

        def ours(pairs):
            epoch = next(epochs)  # new random choices in each round
            for index in range(number):
                pairs[epoch, index]

        whole = partial(ours, all_on_cpu)
        crops = partial(ours, crops_only)
        seconds = compare(CPU, args.rounds, whole, crops, official)
    a, b, pil = number / seconds
    what = "official, PIL"
    report("views, all on the CPU", a, "images/s", what, pil, ">= 3.5")
    aim = ">= 6 (colour on the device)"
    report("views, decoding and crops", b, "images/s", what, pil, aim)


# ---------------------------------------------------------------- colour
def bench_colour(args, device):
    number = 128 if device.type == "cuda" else 32
    if args.quick:
        number = 2
    with TemporaryDirectory() as folder:
        paths = photographs(folder, number)
        pairs = PairDataset(folder, paths, recipe_of("vicreg")["views"], 224, on_device=True)
        (order,) = in_batches(number, number, epoch=0)
        of_views, choices, _ = pairs.batch(order)
    images = torch.cat(of_views)
    choices = torch.cat(choices)
    neutral = torch.from_numpy(views.NEUTRAL).expand(len(images), -1)

    def on_device():
        return batch_views.colour_and_normalise(images.to(device), choices, MEAN, STD)

    def one_by_one():
        coloured = []
        for image, choice in zip(images.numpy(), choices.numpy(), strict=True):
            coloured.append(views.colour(image, choice))
        batch = torch.from_numpy(np.stack(coloured))
        return batch_views.colour_and_normalise(batch.to(device), neutral, MEAN, STD)

    # PIL's arithmetic and OpenCV's are up to one level apart after each operation.
    seconds = compare(device, args.rounds, on_device, one_by_one, equal=0.03, measure=torch.mean)
    a, b = len(images) / seconds
    name = f"colour, 224 px, {device.type}"
    report(name, a, "images/s", "one by one on the CPU", b)


# ---------------------------------------------------------------- small images
def in_memory(pairs):
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        return SmallPairs(pairs, CPU)


def bench_small(args, device):
    number = 8 if args.quick else 512
    batch = number // 2
    with TemporaryDirectory() as folder:
        paths = photographs(folder, number, width=32, height=32, suffix=".png")
        all_on_cpu = PairDataset(folder, paths, recipe_of("simclr")["views"], 32)
        crops_only = PairDataset(folder, paths, recipe_of("simclr")["views"], 32, on_device=True)

        def read(pairs, epochs):
            """All pairs in batches, as a loader of 03_pretrain.py reads them; the last crops."""
            order = in_batches(number, batch, next(epochs))  # new random choices in each round
            batches = list(read_ahead(order, pairs.batch, 0, CPU))
            crops, _, _ = batches[-1]
            return torch.cat(crops)

        # Crops are up to two levels apart, and colour multiplies the difference.
        figures = [("all on the CPU", all_on_cpu, 0.01), ("crops", crops_only, 0.002)]
        for what, pairs, equal in figures:
            ours = partial(read, in_memory(pairs), itertools.count())
            theirs = partial(read, pairs, itertools.count())
            seconds = compare(CPU, args.rounds, ours, theirs, equal=equal, measure=torch.mean)
            a, b = number / seconds
            report(f"small, 32 px, {what}", a, "pairs/s", "from PNG files", b, ">= 4")
