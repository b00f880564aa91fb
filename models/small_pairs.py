"""Pairs of small images that are all in memory: whole batches are cut and resized at once.

At 32 px, opening and decoding a file costs more than all that is done to the image. Here every
image is decoded once. The random choices are exactly those of models/pairs.py, the crops are equal
up to one level.
"""

import functools

import numpy as np
import torch

from models import run, views
from models.images import read_ahead
from models.pairs import REAL, STORED

LARGEST = 64  # pixels: the tables of resampling weights grow with the fourth power of the side


# ---------------------------------------------------------------- resampling
def cubic(x):
    """PIL's bicubic filter, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def linear(x):
    """The triangle filter."""
    return (1 - x.abs()).clamp(min=0)


@functools.cache
def resampling(source, size, interpolation, device):
    """Weights (2, source, source + 1, size, source): entry [flip, begin, width] resizes a part.

    The part begins at pixel `begin` of a line of `source` pixels and is `width` long. The product
    of its matrix (size, source) with the line is the part resized to `size`, with antialiasing, as
    PIL does it, and mirrored if `flip` is 1. Entries of parts that reach beyond the line are not
    used.
    """
    kernel = {"bicubic": cubic, "bilinear": linear}[interpolation]
    table = torch.zeros(2, source, source + 1, size, source, dtype=torch.float64)
    pixels = torch.arange(source) + 0.5
    for width in range(1, source + 1):
        scale = width / size
        centres = (torch.arange(size) + 0.5) * scale
        distance = (pixels[:width] - centres[:, None]) / max(scale, 1.0)
        weights = kernel(distance)
        weights /= weights.sum(1, keepdim=True)
        for begin in range(source - width + 1):
            table[0, begin, width, :, begin : begin + width] = weights
    table[1] = table[0].flip(2)
    return table.float().to(device)


def resized_crops(images, boxes, flips, size, interpolation):
    """The boxes of a batch of images, resized and flipped: uint8 (B, size, size, 3).

    images: uint8 (B, 3, S, S). boxes: int64 (B, 4), (top, left, height, width). flips: int64 (B,),
    0 or 1. All on one device.
    """
    n, _, source, _ = images.shape
    table = resampling(source, size, interpolation, images.device)
    top, left, height, width = boxes.unbind(1)
    columns = table[flips, left, width]
    rows = table[0, top, height]
    x = images.reshape(n, 3 * source, source).float()
    x = torch.bmm(x, columns.mT).round_().clamp_(0, 255)  # PIL keeps 8 bits between the passes
    x = torch.matmul(rows[:, None], x.view(n, 3, source, size)).round_().clamp_(0, 255)
    return x.to(torch.uint8).permute(0, 2, 3, 1).contiguous()  # bytes are quicker to move


# ---------------------------------------------------------------- the random choices
def plan(batch, pairs, sides):
    """(indices (B,), [the choices for each view]) of a batch of (epoch, index), all on the CPU.

    pairs: a PairDataset. sides: {source: side of its images in pixels}. A view's choices are a
    dict: "rows" {source: rows of the batch}, "boxes" (B, 4), "flips" (B,), "choices" (B, 11),
    "size" and "filter".
    """
    of_views = []
    for row, (epoch, index) in enumerate(batch):
        sources = pairs.sources(epoch, index)
        if not of_views:
            of_views = [empty_plan(size, spec, len(batch)) for _, spec, size, _ in sources]
        for view, (source, spec, _, rng) in zip(of_views, sources, strict=True):
            side = sides[source]
            box, flip, choices = views.draw_choices(spec, side, side, rng)
            view["rows"].setdefault(source, []).append(row)
            view["boxes"][row] = box
            view["flips"][row] = flip
            view["choices"][row] = choices
    for view in of_views:
        view["rows"] = {source: torch.tensor(rows) for source, rows in view["rows"].items()}
        for name in ("boxes", "flips", "choices"):
            view[name] = torch.from_numpy(view[name])
    return torch.tensor([index for _, index in batch]), of_views


def empty_plan(size, spec, n):
    """The choices for one view of n images, before they are made."""
    return {
        "rows": {},
        "boxes": np.zeros((n, 4), np.int64),
        "flips": np.zeros(n, np.int64),
        "choices": np.zeros((n, 11), np.float32),
        "size": size,
        "filter": spec["interpolation"],
    }


# ---------------------------------------------------------------- the images
class SmallPairs:
    """The images of a PairDataset in memory, and its views of whole batches.

    pairs: the PairDataset. device: where the images are held; all processes that read share them.
    """

    def __init__(self, pairs, device):
        self.pairs = pairs
        sources = [REAL]
        if pairs.mix > 0:
            sources += [STORED] if pairs.generated == "real" else range(len(pairs.generated))
        images = self.read_all(sources)
        self.images = {source: images[source].to(device) for source in sources}
        self.sides = {source: images[source].shape[2] for source in sources}

    def read_all(self, sources):
        """{source: uint8 (n, 3, S, S)}: every image, which must be equal small squares."""
        n = len(self.pairs)
        whole = {}
        with run.progress(n, "reading") as bar:
            for index in range(n):
                real, place = self.pairs.originals.read_or_next(index)
                for source in sources:
                    image = self.pairs.read(source, real, place)
                    side = whole[source].shape[2] if source in whole else image.shape[0]
                    if image.shape[:2] != (side, side) or side > LARGEST:
                        run.fail(
                            f"--in-memory needs squares of one size of at most {LARGEST} px; "
                            f"{self.pairs.originals.path(place)} is {image.shape[1]} x "
                            f"{image.shape[0]} px: leave --in-memory out.",
                            2,
                        )
                    if source not in whole:
                        empty = torch.zeros(n, 3, side, side, dtype=torch.uint8)
                        whole[source] = empty.share_memory_()
                    whole[source][index] = torch.from_numpy(image.transpose(2, 0, 1).copy())
                bar.update()
        return whole

    def render(self, indices, of_views):
        """(views, choices that are left, indices), as a batch of the PairDataset.

        indices, of_views: what `plan` returned. views: uint8 (B, H, W, 3) each, on the device.
        """
        crops = [self.crop(indices, view) for view in of_views]
        choices = [view["choices"] for view in of_views]
        if not self.pairs.on_device:
            for k, (images, wanted) in enumerate(zip(crops, choices, strict=True)):
                images, wanted = images.numpy(), wanted.numpy()
                for row in (wanted != views.NEUTRAL).any(1).nonzero()[0]:
                    images[row] = views.colour(images[row], wanted[row])
                choices[k] = torch.from_numpy(views.NEUTRAL).expand(len(indices), -1)
        return crops, choices, indices

    def crop(self, indices, view):
        """uint8 (B, size, size, 3): one view of each image, cut and flipped."""
        device = self.images[REAL].device
        indices = indices.to(device, non_blocking=True)
        boxes = view["boxes"].to(device, non_blocking=True)
        flips = view["flips"].to(device, non_blocking=True)
        size = view["size"]
        if len(view["rows"]) == 1:
            images = self.images[next(iter(view["rows"]))][indices]
            return resized_crops(images, boxes, flips, size, view["filter"])
        out = torch.empty(len(indices), size, size, 3, dtype=torch.uint8, device=device)
        for source, rows in view["rows"].items():
            rows = rows.to(device, non_blocking=True)
            images = self.images[source][indices[rows]]
            out[rows] = resized_crops(images, boxes[rows], flips[rows], size, view["filter"])
        return out

    def batch(self, batch):
        """The views of a batch of (epoch, index), for the workers of a loader on a CPU."""
        return self.render(*plan(batch, self.pairs, self.sides))


def small_loader(pairs, order, workers, device):
    """(iterator over the batches in `order`, what makes views of one of its items, or None).

    On a CPU the loader's workers make the views. On a GPU they only make the random choices, and
    the views are made where the images are.
    """
    small = SmallPairs(pairs, device)
    if device.type == "cpu":
        return read_ahead(order, small.batch, workers, device), None
    choose = functools.partial(plan, pairs=pairs, sides=small.sides)
    return read_ahead(order, choose, workers, device), small.render
