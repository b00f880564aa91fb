"""Pairs: a real view and its partners, some of which are generated images."""

import os
from pathlib import Path

import cv2
import numpy as np
import torch

from models import run, views
from models.images import as_stored, read_image

STORED = (".jpg", ".png")  # what 02_augment.py writes


def check_mirrors(paths, mirrors):
    """The extension of each image's generated view: uint8 (len(mirrors), len(paths)), into STORED.

    Missing ones end the run with a sentence that counts and names some. Each folder is listed once.
    """
    extension = np.zeros((len(mirrors), len(paths)), np.uint8)
    stems = [path.rpartition(".")[0] for path in paths]
    for mirror, row in zip(mirrors, extension, strict=True):
        files, missing = {}, []
        for i, stem in enumerate(stems):
            folder, _, name = stem.rpartition("/")
            if folder not in files:
                path = Path(mirror, folder)
                files[folder] = set(os.listdir(path)) if path.is_dir() else set()
            found = [k for k, suffix in enumerate(STORED) if name + suffix in files[folder]]
            if found:
                row[i] = found[0]
            else:
                missing.append(paths[i])
        if missing:
            run.fail(
                f"{len(missing)} of {len(paths)} images have no generated view in {mirror}, such "
                f"as {', '.join(missing[:3])}: finish 02_augment.py for this --data first."
            )
    return extension


class PairDataset(torch.utils.data.Dataset):
    """Views of each image: the first view, K partners, local crops. Asked for as (epoch, index).

    root, paths: the real images; paths are relative to root. specs: (first, second, local) as in
    models/views.py. size, local_size: pixels.
    generated: folders of generated images ("mirrors", view folders of 02_augment.py); or "real",
    the control: the real image in their place, resized and stored as they were.
    Each of K = `partners` partners is, with probability `mix`, a generated image (K distinct
    mirrors) under the augmentations `pair` (names of views.PAIR), else the real image under
    `second`. Local crops are cut from the real image; with local_from="generated" from the partners
    in turn.

    Every choice is a function of (seed, epoch, index, purpose). So the real views are the same for
    every `mix`, and with mix = 0 no mirror is opened.
    on_device: everything after crop and flip is left to device_views.colour_and_normalise.

    An item is (views, choices, index). views: list of uint8 (H, W, 3) tensors, in this layout
    because stacking a batch is then one copy an image. choices: as many float32 (11,), neutral
    where nothing is left to do. A file that cannot be read raises an OSError that names it.
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
        local_crops=0,
        local_size=96,
        local_from="real",
        store_size=256,
        on_device=False,
    ):
        self.root = os.fspath(root)
        self.paths = np.array([os.fsencode(path) for path in paths])  # one block for all workers
        self.first, self.second, self.local = specs
        self.pair = views.pair_view(pair, self.second)
        self.size = size
        self.seed = seed
        self.mix = mix
        self.partners = partners
        self.local_crops = local_crops
        self.local_size = local_size
        self.local_from = local_from
        self.store_size = store_size
        self.on_device = on_device
        self.generated = generated
        if mix > 0 and generated != "real":
            if len(generated) < partners:
                run.fail(
                    f"--views {partners} needs as many folders of generated views; --generated has "
                    f"{len(generated)}.",
                    2,
                )
            self.extension = check_mirrors(paths, generated)

    def __len__(self):
        return len(self.paths)

    def view(self, image, spec, size, rng):
        """(the view, the colour choices that are left to do)."""
        box, flip, choices = views.draw_choices(spec, *image.shape[:2], rng)
        view = views.resized_crop(image, box, size, spec["interpolation"])
        if flip:
            view = cv2.flip(view, 1)
        if not self.on_device:
            view = views.colour(view, choices)
            choices = views.NEUTRAL
        return torch.from_numpy(view), torch.from_numpy(choices)

    def generated_images(self, real, path, epoch, index):
        """What stands in the place of each partner: a generated image, or None for the real one."""
        if self.mix == 0:
            return [None] * self.partners
        rng = run.seed_rng(self.seed, epoch, index, "mix")
        taken = rng.random(self.partners) < self.mix
        if self.generated == "real":
            stored = as_stored(real, self.store_size) if taken.any() else None
            return [stored if take else None for take in taken]
        chosen = rng.permutation(len(self.generated))[: self.partners]
        stem = path.rpartition(".")[0]
        images = []
        for mirror, take in zip(chosen, taken, strict=True):
            suffix = STORED[self.extension[mirror, index]]
            file = os.path.join(self.generated[mirror], stem + suffix)
            images.append(read_image(file) if take else None)
        return images

    def __getitem__(self, item):
        epoch, index = item
        path = os.fsdecode(self.paths[index])
        real = read_image(os.path.join(self.root, path))
        generated = self.generated_images(real, path, epoch, index)

        def rng(*purpose):
            return run.seed_rng(self.seed, epoch, index, *purpose)

        found = [self.view(real, self.first, self.size, rng("first"))]
        for k, image in enumerate(generated):
            if image is None:
                found.append(self.view(real, self.second, self.size, rng("second", k)))
            else:
                found.append(self.view(image, self.pair, self.size, rng("pair", k)))
        for n in range(self.local_crops):
            image, spec = real, self.local
            partner = generated[n % self.partners]
            if self.local_from == "generated" and partner is not None:
                image, spec = partner, self.pair | {"scale": self.local["scale"]}
            found.append(self.view(image, spec, self.local_size, rng("local", n)))
        crops = [view for view, _ in found]
        choices = [choice for _, choice in found]
        return crops, choices, index
