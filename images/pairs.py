"""Pairs: a real view and its partners, some of which are generated images. Used by 03 alone.

They are read from files one by one, or, where all images are small, kept in memory: then the crops
of a whole batch are made at once.
"""

import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from base import run
from images import views
from images.batch_views import resized_crops
from images.files import mirror_root, read_ahead, stem_of, suffixes_in, unread, views_of
from images.pictures import as_stored
from images.read import read_image
from images.unreadable import ImageList

REAL = -1  # the real image, as the source of a view
STORED = -2  # the control: the real image, stored as a generated one would be
LARGEST = 64  # pixels of images in memory: the tables of resampling grow with the fourth power


def mirrors_of(generated, mix):
    """(view folders, what each mirror's augment.json says) of the folders `generated`.

    At mixing rate 0 nothing is opened. The control's folders are the word "real".
    """
    if mix == 0:
        return [], []
    if generated == ["real"]:
        return "real", ["real"]
    folders, made_by = [], []
    for mirror in map(Path, generated):
        root = mirror_root(mirror)
        if root is None:
            run.fail(
                f"--generated {mirror} is not a mirror made by 02_augment.py: there is no "
                "augment.json.",
                2,
            )
        folders += views_of(mirror)
        noted = run.read_json(root / "augment.json")
        noted.pop("versions", None)
        noted["folder"] = str(mirror)
        for part in mirror.resolve().relative_to(root).parts:
            if part.startswith("strength"):  # one of several strengths that lie side by side
                noted["args"]["strength"] = [float(part.removeprefix("strength"))]
        made_by.append(noted)
    return folders, made_by


def inputs_of(paths, folders, made_by):
    """What the run depends on, in a form that can be compared when it is resumed."""
    inputs = {"number of images": len(paths), "list of images": run.names_hash(paths)}
    if folders and folders != "real":
        inputs["list of generated views"] = [folder.name for folder in folders]
        weights = [json.dumps(noted.get("inputs", {}), sort_keys=True) for noted in made_by]
        inputs["generator"] = run.names_hash(weights)
    return inputs


def generated_suffixes(paths, mirrors):
    """(extensions, bytes (mirrors, paths), of the generated images; {index: why} of the originals
    that 02_augment.py could not read).

    Other missing views end the run with a sentence that counts them and names some.
    """
    suffixes = []
    failed = {}
    for mirror in mirrors:
        suffixes.append(suffixes_in(mirror, paths))
        reasons = unread(mirror)
        missing = []
        for i in np.flatnonzero(suffixes[-1] == b"").tolist():
            if stem_of(paths[i]) in reasons:
                failed[i] = reasons[stem_of(paths[i])]
            else:
                missing.append(paths[i])
        if missing:
            run.fail(
                f"{len(missing)} of {len(paths)} images have no generated view in {mirror}, such "
                f"as {', '.join(missing[:3])}: finish 02_augment.py for this --data first."
            )
    return np.stack(suffixes), failed


class PairDataset(torch.utils.data.Dataset):
    """Views of each image: the first view, K partners, local crops. Asked for as (epoch, index).

    root, paths: the real images; paths are relative to root. specs: (first, second, local) as in
    images/views.py. size, local_size: pixels.
    generated: folders of generated images ("mirrors", view folders of 02_augment.py); or "real",
    the control: the real image in their place, resized and stored as they were.
    Each of K = `partners` partners is, with probability `mix`, a generated image (K distinct
    mirrors) under the augmentations `pair` (names of views.PAIR), else the real image under
    `second`. Local crops are cut from the real image; with local_from="generated" from the partners
    in turn.
    both_generated: the first view, too, is a generated image under `pair`, from yet another mirror,
    and local crops are cut from the partners. `mix` is 1 then.

    Every choice is a function of (seed, epoch, index, purpose). So the real views are the same for
    every `mix`, and with mix = 0 no mirror is opened.
    on_device: everything after crop and flip is left to batch_views.colour_and_normalise.

    An item is (views, choices, index). views: list of uint8 (H, W, 3) tensors, in this layout
    because stacking a batch is then one copy an image. choices: as many float32 (11,), neutral
    where nothing is left to do. Where a real image cannot be read, or 02_augment.py could not read
    it, the next one stands in with its generated images; the random choices remain. share, record:
    see unreadable.ImageList. A generated image that cannot be read raises an OSError.
    """

    def __init__(
        self,
        root,
        paths,
        specs,
        size,
        *,
        seed=0,
        mix=0.0,
        pair=("crop",),
        generated=(),
        partners=1,
        both_generated=False,
        local_crops=0,
        local_size=96,
        local_from="real",
        store_size=256,
        on_device=False,
        share=0.0,
        record=None,
    ):
        self.first, self.second, self.local = specs
        self.pair = views.pair_view(pair, self.second)
        self.size = size
        self.seed = seed
        self.mix = mix
        self.partners = partners
        self.both_generated = both_generated
        self.local_crops = local_crops
        self.local_size = local_size
        self.local_from = "generated" if both_generated else local_from
        self.store_size = store_size
        self.on_device = on_device
        self.generated = generated
        failed = {}
        if mix > 0 and generated != "real":
            needed = partners + both_generated
            if len(generated) < needed:
                flags = f"--views {partners}" + " --both-generated" * both_generated
                run.fail(
                    f"{flags} needs {needed} folders of generated views; --generated has "
                    f"{len(generated)}.",
                    2,
                )
            self.suffixes, failed = generated_suffixes(paths, generated)
        self.originals = ImageList(root, paths, share, record, failed=failed)

    def __len__(self):
        return len(self.originals)

    def sources(self, epoch, index):
        """What each view is made of: [(image, spec, size, random generator)].

        image: REAL, STORED (the real image in a generated one's place), or a mirror's number.
        """
        first, partners = REAL, [REAL] * self.partners
        if self.mix > 0:
            rng = run.seed_rng(self.seed, epoch, index, "mix")
            taken = rng.random(self.partners) < self.mix
            needed = self.partners + self.both_generated
            chosen = [STORED] * needed
            if self.generated != "real":
                chosen = rng.permutation(len(self.generated))[:needed].tolist()
            if self.both_generated:
                first = chosen.pop()
            partners = [c if take else REAL for c, take in zip(chosen, taken, strict=True)]

        def rng_of(*purpose):
            return run.seed_rng(self.seed, epoch, index, *purpose)

        first_spec = self.first if first == REAL else self.pair
        sources = [(first, first_spec, self.size, rng_of("first"))]
        for k, image in enumerate(partners):
            purpose, spec = ("second", self.second) if image == REAL else ("pair", self.pair)
            sources.append((image, spec, self.size, rng_of(purpose, k)))
        for n in range(self.local_crops):
            image, spec = REAL, self.local
            partner = partners[n % self.partners]
            if self.local_from == "generated" and partner != REAL:
                image, spec = partner, self.pair | {"scale": self.local["scale"]}
            sources.append((image, spec, self.local_size, rng_of("local", n)))
        return sources

    def read(self, image, real, index):
        """uint8 (H, W, 3) of one of the images that `sources` names.

        real, index: what `originals.read_or_next` returns.
        """
        if image == REAL:
            return real
        if image == STORED:
            return as_stored(real, self.store_size)
        name = stem_of(self.originals.path(index)) + self.suffixes[image, index].decode()
        return read_image(os.path.join(self.generated[image], name))

    def __getitem__(self, item):
        epoch, index = item
        sources = self.sources(epoch, index)
        needs_real = any(image in (REAL, STORED) for image, *_ in sources)
        real, there = self.originals.read_or_next(index, pixels=needs_real)
        images = {REAL: real}
        crops, left = [], []
        for image, spec, size, rng in sources:
            if image not in images:
                images[image] = self.read(image, real, there)
            pixels = images[image]
            box, flip, choices = views.draw_choices(spec, *pixels.shape[:2], rng)
            view = views.resized_crop(pixels, box, size, spec["interpolation"])
            if flip:
                view = cv2.flip(view, 1)
            if not self.on_device:
                view = views.colour(view, choices)
                choices = views.NEUTRAL
            crops.append(torch.from_numpy(view))
            left.append(torch.from_numpy(choices))
        return crops, left, index

    def batch(self, batch):
        """The items of a list of (epoch, index), stacked: what a loader's worker reads at once."""
        return torch.utils.data.default_collate([self[item] for item in batch])


# ---------------------------------------------------------------- small images in memory
class ViewPlan(NamedTuple):
    """The choices for one view of the images of a batch, on the CPU.

    images (B,): which one each is made of, as `PairDataset.sources` says. boxes: int64 (B, 4).
    flips: int64 (B,). choices: float32 (B, 11). size: pixels.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    flips: torch.Tensor
    choices: torch.Tensor
    size: int
    interpolation: str


def plan(batch, pairs, sides):
    """(indices (B,), [a ViewPlan for each view]) of a batch of (epoch, index).

    pairs: a PairDataset. sides: {image, as `sources` names it: its side in pixels}.
    """
    plans = []
    asked = [pairs.sources(epoch, index) for epoch, index in batch]
    for column in zip(*asked, strict=True):
        images, specs, sizes, _ = zip(*column, strict=True)
        drawn = [
            views.draw_choices(spec, sides[image], sides[image], rng)
            for image, spec, _, rng in column
        ]
        boxes, flips, choices = zip(*drawn, strict=True)
        plans.append(
            ViewPlan(
                torch.tensor(images),
                torch.tensor(boxes),
                torch.tensor(flips, dtype=torch.int64),
                torch.from_numpy(np.stack(choices)),
                sizes[0],
                specs[0]["interpolation"],
            )
        )
    return torch.tensor([index for _, index in batch]), plans


class SmallPairs:
    """The images of a PairDataset in memory, and its views of whole batches.

    pairs: the PairDataset. device: where the images are held; all processes that read share them.
    The images are uint8 (n, S, 3, S), as `resized_crops` takes them.
    """

    def __init__(self, pairs, device):
        self.pairs = pairs
        self.images = {}
        kinds = [REAL]
        if pairs.mix > 0:
            kinds += [STORED] if pairs.generated == "real" else range(len(pairs.generated))
        with run.progress(len(pairs), "reading") as bar:
            for index in range(len(pairs)):
                real, there = pairs.originals.read_or_next(index)
                for kind in kinds:
                    self.keep(kind, index, pairs.read(kind, real, there), there)
                bar.update()
        self.images = {kind: images.to(device) for kind, images in self.images.items()}
        self.sides = {kind: images.shape[1] for kind, images in self.images.items()}

    def keep(self, kind, index, image, there):
        """Put an image in memory; they must all be equal small squares."""
        if kind not in self.images:
            side = image.shape[0]
            empty = torch.zeros(len(self.pairs), side, 3, side, dtype=torch.uint8)
            self.images[kind] = empty.share_memory_()
        side = self.images[kind].shape[1]
        if image.shape[:2] != (side, side) or side > LARGEST:
            run.fail(
                f"--in-memory needs squares of one size of at most {LARGEST} px; "
                f"{self.pairs.originals.path(there)} is {image.shape[1]} x {image.shape[0]} px: "
                "leave --in-memory out.",
                2,
            )
        self.images[kind][index] = torch.from_numpy(image.transpose(0, 2, 1).copy())

    def render(self, indices, plans):
        """(views, choices that are left, indices), as a batch of the PairDataset.

        indices, plans: what `plan` returned. views: uint8 (B, H, W, 3) each, on the device.
        """
        crops = [self.crop(indices, view) for view in plans]
        choices = [view.choices for view in plans]
        if not self.pairs.on_device:
            for images, wanted in zip(crops, choices, strict=True):
                images = images.numpy()
                for row, choice in enumerate(wanted.numpy()):
                    images[row] = views.colour(images[row], choice)
            neutral = torch.from_numpy(views.NEUTRAL).expand(len(indices), -1)
            choices = [neutral] * len(crops)
        return crops, choices, indices

    def crop(self, indices, view):
        """uint8 (B, size, size, 3): one view of each image, cut and flipped."""
        device = self.images[REAL].device
        send = functools.partial(torch.Tensor.to, device=device, non_blocking=True)
        shape = (len(indices), view.size, view.size, 3)
        crops = torch.empty(shape, dtype=torch.uint8, device=device)
        for kind in view.images.unique().tolist():
            rows = (view.images == kind).nonzero()[:, 0]
            images = self.images[kind][send(indices[rows])]
            boxes = send(view.boxes[rows])
            flips = send(view.flips[rows])
            crops[send(rows)] = resized_crops(images, boxes, flips, view.size, view.interpolation)
        return crops

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
