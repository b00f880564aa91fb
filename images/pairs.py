"""Pairs: a real view and its partners, some of which are generated images."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from base import run
from images import views
from images.files import MISSING, as_stored, generated_files, views_of
from images.matching import mirror_root, unread
from images.read import read_image
from images.unreadable import ImageList

REAL = -1  # the real image, as the source of a view
STORED = -2  # the control: the real image, stored as a generated one would be


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
    """([suffixes of a mirror's files], uint8 (mirrors, paths) of indices into them), for each
    mirror; and {index: why} of the originals that 02_augment.py could not read.

    Other missing views end the run with a sentence that counts them and names some.
    """
    suffixes = []
    failed = {}
    index = np.zeros((len(mirrors), len(paths)), np.uint8)
    for mirror, row in zip(mirrors, index, strict=True):
        known, row[:] = generated_files(mirror, paths)
        suffixes.append(known)
        reasons = unread(mirror)
        missing = []
        for i in np.flatnonzero(row == MISSING).tolist():
            stem = paths[i].rpartition(".")[0]
            if stem in reasons:
                failed[i] = reasons[stem]
            else:
                missing.append(i)
        if missing:
            names = ", ".join(paths[i] for i in missing[:3])
            run.fail(
                f"{len(missing)} of {len(paths)} images have no generated view in {mirror}, such "
                f"as {names}: finish 02_augment.py for this --data first."
            )
    return suffixes, index, failed


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
    on_device: everything after crop and flip is left to device_views.colour_and_normalise.

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
            self.suffixes, self.suffix_index, failed = generated_suffixes(paths, generated)
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
        found = [(first, first_spec, self.size, rng_of("first"))]
        for k, image in enumerate(partners):
            if image == REAL:
                found.append((REAL, self.second, self.size, rng_of("second", k)))
            else:
                found.append((image, self.pair, self.size, rng_of("pair", k)))
        for n in range(self.local_crops):
            image, spec = REAL, self.local
            partner = partners[n % self.partners]
            if self.local_from == "generated" and partner != REAL:
                image, spec = partner, self.pair | {"scale": self.local["scale"]}
            found.append((image, spec, self.local_size, rng_of("local", n)))
        return found

    def read(self, image, real, index):
        """uint8 (H, W, 3) of one of the images that `sources` names.

        real, index: what `originals.read_or_next` returns; real may be None for generated images.
        """
        if image == REAL:
            return real
        if image == STORED:
            return as_stored(real, self.store_size)
        path = self.originals.path(index)
        suffix = self.suffixes[image][self.suffix_index[image, index]]
        return read_image(os.path.join(self.generated[image], path.rpartition(".")[0] + suffix))

    def __getitem__(self, item):
        epoch, index = item
        sources = self.sources(epoch, index)
        if any(image in (REAL, STORED) for image, *_ in sources):
            real, place = self.originals.read_or_next(index)
        else:
            real, place = None, self.originals.usable_or_next(index)
        images = {}
        crops, left = [], []
        for image, spec, size, rng in sources:
            if image not in images:
                images[image] = self.read(image, real, place)
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
