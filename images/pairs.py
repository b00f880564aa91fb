"""Pairs: a real view and its partners, some of which are generated images. Used by 03 and 07.

They are read from files one by one, or, where all images are small, kept in memory: then the crops
of a whole batch are made at once.
"""

import functools
import itertools
import json
import os
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from base import run
from images import views
from images.batch_views import resized_crops
from images.files import mirror_root, read_ahead, stem_of, suffixes_in, unread, views_of
from images.pictures import as_stored
from images.read import read_image
from images.unreadable import ImageList

REAL = -1  # the real image, as the source of a view
STORED = -2  # the control: the real image, stored as a generated one would be
LARGEST = 64  # pixels of images in memory; larger ones gain little


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
        noted.setdefault("strategy", mirror.name)
        args = noted.setdefault("args", {})
        if "data" in args:  # as it was typed, and where
            args["data"] = os.path.join(noted.get("folder", ""), args["data"])
        noted["folder"] = str(mirror)
        for part in mirror.resolve().relative_to(root).parts:
            if part.startswith("strength"):  # one of several strengths that lie side by side
                args["strength"] = [float(part.removeprefix("strength"))]
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


@dataclass(eq=False)
class PairDataset:
    """Views of each image: the first view, K partners, local crops. Asked for as (epoch, index).

    root, paths: the real images; paths are relative to root. specs: (first, second, local) as in
    images/views.py. size, local_size: pixels.
    generated: folders of generated images ("mirrors", view folders of 02_augment.py); or "real",
    the control: the real image in their place, resized and stored as they were.
    Each of K = `partners` partners is, with probability `mix`, a generated image (K distinct
    mirrors) under the augmentations `pair` (names of views.PAIR), else the real image under
    `second`. Local crops are cut from the real image.
    replace: the view whose place the partners take, "first", "second" or, drawn for each image,
    "either". In the first's place they have its augmentations where they are real, and what is
    always real has the second's.
    both_generated: the first view, too, is a generated image under `pair`, from yet another mirror,
    and local crops are cut from the partners in turn. `mix` is 1 then.

    Every choice is a function of (seed, epoch, index, purpose). So the real views are the same for
    every `mix`, and with mix = 0 no mirror is opened.
    on_device: everything after crop and flip is left to batch_views.colour_and_normalise.

    An item is (views, choices, index). views: list of uint8 (H, W, 3) tensors, in this layout
    because stacking a batch is then one copy an image. choices: as many float32 (11,), neutral
    where nothing is left to do. Where a real image cannot be read, or 02_augment.py could not read
    it, the next one stands in with its generated images; the random choices remain. share, record:
    see unreadable.ImageList. A generated image that cannot be read raises an OSError.
    """

    root: InitVar[str]
    paths: InitVar[list]
    specs: InitVar[tuple]
    size: int
    _: KW_ONLY
    seed: int = 0
    mix: float = 0
    pair: InitVar[tuple] = ("crop",)
    replace: str = "first"
    generated: list = ()
    partners: int = 1
    both_generated: bool = False
    local_crops: int = 0
    local_size: int = 96
    store_size: int = 256
    on_device: bool = False
    share: InitVar[float] = 0
    record: InitVar[str] = None

    def __post_init__(self, root, paths, specs, pair, share, record):
        first, second, self.local = specs
        orders = {"first": [(second, first)], "second": [(first, second)]}
        orders["either"] = orders["first"] + orders["second"]
        self.first = first
        self.specs = []  # for each order: of the real view, of a real partner, of a generated one
        for real, partner in orders[self.replace]:
            self.specs.append((real, partner, views.pair_view(pair, partner)))
        self.needed = self.partners + self.both_generated
        if self.both_generated:
            generated = views.pair_view(pair, second)
            self.specs = [(generated, second, generated)]
            self.local = generated | {"scale": self.local["scale"]}
        failed = {}
        if self.mix > 0 and self.generated != "real":
            if len(self.generated) < self.needed:
                run.fail(
                    f"Each image needs {self.needed} folders of generated views; --generated has "
                    f"{len(self.generated)}.",
                    2,
                )
            self.suffixes, failed = generated_suffixes(paths, self.generated)
        self.originals = ImageList(root, paths, share, record, failed=failed)

    def __len__(self):
        return len(self.originals)

    def sources(self, epoch, index):
        """The image that each view is made of: (first, [partners], [local crops]).

        It is REAL, STORED (the real image in a generated one's place), or a mirror's number.
        """
        first, partners = REAL, [REAL] * self.partners
        if self.mix > 0:
            rng = run.seed_rng(self.seed, epoch, index, "mix")
            taken = rng.random(self.partners) < self.mix
            chosen = [STORED] * self.needed
            if self.generated != "real":
                chosen = rng.permutation(len(self.generated))[: self.needed].tolist()
            if self.both_generated:
                first = chosen.pop()
            partners = [c if take else REAL for c, take in zip(chosen, taken, strict=True)]
        of_local = partners if self.both_generated else [REAL]
        return first, partners, [of_local[n % len(of_local)] for n in range(self.local_crops)]

    def choose(self, epoch, index, shape):
        """What each view is made of, and how: [(image, size, box (4,), flip, choices (11,))].

        image: as `sources` names it. shape: a function of it that returns (height, width).
        """

        def drawn(image, spec, size, *purpose):
            rng = run.seed_rng(self.seed, epoch, index, *purpose)
            box, *others = views.draw_choices(spec, *shape(image), rng)
            return image, size, np.array(box), *others

        first, partners, local = self.sources(epoch, index)
        order = run.image_seed(self.seed, epoch, index, "replace") % len(self.specs)
        of_real, of_partner, of_generated = self.specs[order]
        chosen = [drawn(first, of_real, self.size, "first")]
        for k, image in enumerate(partners):
            purpose, spec = ("second", of_partner) if image == REAL else ("pair", of_generated)
            chosen.append(drawn(image, spec, self.size, purpose, k))
        for n, image in enumerate(local):
            chosen.append(drawn(image, self.local, self.local_size, "local", n))
        return chosen

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
        needs_real = not self.both_generated or self.generated == "real"
        real, there = self.originals.read_or_next(index, pixels=needs_real)
        images = {}

        def shape(image):
            if image not in images:
                images[image] = self.read(image, real, there)
            return images[image].shape[:2]

        crops, left = [], []
        for image, size, box, flip, choices in self.choose(epoch, index, shape):
            view = views.resized_crop(images[image], box, size, self.first["interpolation"])
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
        return default_collate([self[item] for item in batch])


# ---------------------------------------------------------------- small images in memory
def choose_all(batch, pairs, sides):
    """(indices (B,), what `PairDataset.choose` returns, as tensors of B) of a list of (epoch,
    index). sides: {image, as `sources` names it: its side in pixels}.
    """
    chosen = [pairs.choose(*item, lambda image: (sides[image], sides[image])) for item in batch]
    return torch.tensor([index for _, index in batch]), default_collate(chosen)


class SmallPairs:
    """The images of a PairDataset in memory, and its views of whole batches.

    pairs: the PairDataset. device: where the images are held; all processes that read share them.
    The images are uint8 (n, S, 3, S), as `resized_crops` takes them.
    """

    def __init__(self, pairs, device):
        self.pairs = pairs
        self.device = device
        self.sides = {}
        images = {}
        kinds = [REAL]
        if pairs.mix > 0:
            kinds += [STORED] if pairs.generated == "real" else range(len(pairs.generated))
        with run.progress(len(pairs), "reading") as bar:
            for index in range(len(pairs)):
                real, there = pairs.originals.read_or_next(index)
                for kind in kinds:
                    image = pairs.read(kind, real, there)
                    height, width, _ = image.shape
                    if not height == width == self.sides.setdefault(kind, height) <= LARGEST:
                        run.fail(
                            f"--in-memory needs squares of one size of at most {LARGEST} px; "
                            f"{pairs.originals.path(there)} is {width} x {height} px: leave "
                            "--in-memory out.",
                            2,
                        )
                    if kind not in images:
                        images[kind] = torch.zeros(len(pairs), height, 3, height, dtype=torch.uint8)
                    images[kind][index] = torch.from_numpy(image.transpose(0, 2, 1).copy())
                bar.update()
        self.images = {kind: of_kind.to(device) for kind, of_kind in images.items()}

    def render(self, indices, chosen):
        """(views, choices that are left, indices), as a batch of the PairDataset.

        indices, chosen: what `choose_all` returned. views: uint8 (B, H, W, 3) each, on the device.
        """
        crops, left = [], []
        for *how, choices in chosen:
            images = self.crop(indices, *how)
            if not self.pairs.on_device:
                for image, choice in zip(images.numpy(), choices.numpy(), strict=True):
                    image[:] = views.colour(image, choice)
                choices = torch.from_numpy(views.NEUTRAL).expand(len(indices), -1)
            crops.append(images)
            left.append(choices)
        return crops, left, indices

    def crop(self, indices, kinds, sizes, boxes, flips):
        """uint8 (B, size, size, 3): one view of each image, cut and flipped."""
        send = functools.partial(torch.Tensor.to, device=self.device, non_blocking=True)
        size = int(sizes[0])
        crops = send(torch.empty(len(indices), size, size, 3, dtype=torch.uint8))
        for kind in kinds.unique().tolist():
            rows = (kinds == kind).nonzero()[:, 0]
            crops[send(rows)] = resized_crops(
                self.images[kind][send(indices[rows])],
                send(boxes[rows]),
                send(flips[rows].long()),
                size,
                self.pairs.first["interpolation"],
            )
        return crops

    def batch(self, batch):
        """The views of a batch of (epoch, index), for the workers of a loader on a CPU."""
        return self.render(*choose_all(batch, self.pairs, self.sides))


def small_loader(pairs, order, workers, device):
    """An iterator over the batches in `order`, each as a batch of the PairDataset.

    On a CPU the loader's workers make the views. On a GPU they only make the random choices, and
    the views are made where the images are.
    """
    small = SmallPairs(pairs, device)
    if device.type == "cpu":
        return read_ahead(order, small.batch, workers, device)
    choose = functools.partial(choose_all, pairs=pairs, sides=small.sides)
    return itertools.starmap(small.render, read_ahead(order, choose, workers, device))
