"""Pairs of small images that are all in memory: the views of a whole batch are made at once.

At 32 px, opening and decoding a file costs more than all that is done to the image. Here every
image is decoded once. The random choices are exactly those of images/pairs.py.
"""

import functools

import torch

from base import run
from images import small_views, views
from images.files import read_ahead
from images.pairs import REAL, STORED

LARGEST = 64  # pixels: the tables of resampling weights grow with the fourth power of the side


# ---------------------------------------------------------------- the random choices
def plan(batch, pairs, sides):
    """(indices (B,), [the choices for each view]) of a batch of (epoch, index), all on the CPU.

    pairs: a PairDataset. sides: {source: side of its images in pixels}. A view's choices are a
    dict: "rows" {source: rows of the batch}, "boxes" (B, 4), "flips" (B,), "choices" (B, 11),
    "size" and "filter".
    """
    asked = [pairs.sources(epoch, index) for epoch, index in batch]
    of_views = [plan_view(column, sides) for column in zip(*asked, strict=True)]
    return torch.tensor([index for _, index in batch]), of_views


def plan_view(column, sides):
    """The choices for one view of all images of a batch; column: its (source, spec, size, rng)."""
    rows, specs, rngs = {}, {}, {}
    for row, (source, spec, _, rng) in enumerate(column):
        specs[source] = spec
        rows.setdefault(source, []).append(row)
        rngs.setdefault(source, []).append(rng)
    boxes = torch.empty(len(column), 4, dtype=torch.int64)
    flips = torch.empty(len(column), dtype=torch.int64)
    choices = torch.empty(len(column), 11)
    for source, spec in specs.items():
        rows[source] = torch.tensor(rows[source])
        drawn = small_views.draw_choices(spec, sides[source], rngs[source])
        for whole, part in zip((boxes, flips, choices), drawn, strict=True):
            whole[rows[source]] = torch.from_numpy(part)
    _, spec, size, _ = column[0]
    return {
        "rows": rows,
        "boxes": boxes,
        "flips": flips,
        "choices": choices,
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
        self.sides = {source: images[source].shape[1] for source in sources}

    def read_all(self, sources):
        """{source: uint8 (n, S, 3, S)}: every image, which must be equal small squares."""
        n = len(self.pairs)
        whole = {}
        with run.progress(n, "reading") as bar:
            for index in range(n):
                real, place = self.pairs.originals.read_or_next(index)
                for source in sources:
                    image = self.pairs.read(source, real, place)
                    side = whole[source].shape[1] if source in whole else image.shape[0]
                    if image.shape[:2] != (side, side) or side > LARGEST:
                        run.fail(
                            f"--in-memory needs squares of one size of at most {LARGEST} px; "
                            f"{self.pairs.originals.path(place)} is {image.shape[1]} x "
                            f"{image.shape[0]} px: leave --in-memory out.",
                            2,
                        )
                    if source not in whole:
                        empty = torch.zeros(n, side, 3, side, dtype=torch.uint8)
                        whole[source] = empty.share_memory_()
                    whole[source][index] = torch.from_numpy(image.transpose(0, 2, 1).copy())
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
                small_views.colour(images.numpy(), wanted)
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
            images = self.images[next(iter(view["rows"]))].index_select(0, indices)
            return small_views.resized_crops(images, boxes, flips, size, view["filter"])
        out = torch.empty(len(indices), size, size, 3, dtype=torch.uint8, device=device)
        for source, rows in view["rows"].items():
            rows = rows.to(device, non_blocking=True)
            images = self.images[source].index_select(0, indices[rows])
            out[rows] = small_views.resized_crops(
                images, boxes[rows], flips[rows], size, view["filter"]
            )
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
