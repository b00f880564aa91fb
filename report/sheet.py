"""Sheets of images beside what becomes of them, as the dissertation's figures show them.

Used by 07_metrics.py sheet, and by the figures of a report.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from augment import real_images
from augment.strategy import read_square
from base import run
from images.files import find_images, spread, stem_of, suffixes_in
from images.pictures import contact_sheet
from images.read import read_image


def read_beside(folder, paths):
    """The images of the folder with these paths, whatever their extension; [] if one is missing."""
    suffixes = suffixes_in(folder, paths)
    if b"" in suffixes:
        return []
    files = [stem_of(path) + end.decode() for path, end in zip(paths, suffixes, strict=True)]
    return [read_image(Path(folder, file)) for file in files]


# ---------------------------------------------------------------- Figure 13
def cutout(image, rng):
    """A black square of a quarter of the side."""
    image = image.copy()
    side = image.width // 4
    left, top = rng.integers(image.width - side, size=2).tolist()
    image.paste(0, (left, top, left + side, top + side))
    return image


def gaussian_noise(image, rng):
    noisy = np.asarray(image) + rng.normal(0, 25, (*image.size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def sobel(image, rng):
    """The magnitude of the gradient, in shares of the largest."""
    gray = np.asarray(image.convert("L"), np.float32)
    magnitude = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
    return Image.fromarray((255 * magnitude / max(magnitude.max(), 1)).astype(np.uint8))


AUGMENTATIONS = {  # of square images
    "flipping": lambda image, rng: ImageOps.mirror(image),
    "grayscale": lambda image, rng: ImageOps.grayscale(image),
    "rotation": lambda image, rng: image.rotate(rng.uniform(-45, 45), Image.Resampling.BICUBIC),
    "cutout": cutout,
    "Gaussian noise": gaussian_noise,
    "Sobel filtering": sobel,
    "solarization": lambda image, rng: ImageOps.solarize(image),
}


def augmented(originals, paths, args):
    """{title: images}: the augmentations of stage 02, then those that stand above."""
    images = torch.from_numpy(np.stack(originals))
    columns = {}
    for title, name in {"cropping": "crop", "color jitter": "jitter", "blur": "blur"}.items():
        columns[title] = (
            real_images.handcrafted(name, args, None).generate(images, paths)[0].numpy()
        )
    for title, change in AUGMENTATIONS.items():
        columns[title] = []
        for path, image in zip(paths, originals, strict=True):
            changed = change(Image.fromarray(image), run.seed_rng(args.seed, path, title))
            columns[title].append(np.asarray(changed.convert("RGB")))
    return columns


# ---------------------------------------------------------------- the sheet
def draw_sheet(args):
    """Write args.out: each image beside its namesakes in the view folders, or, where none are
    given, under the hand-crafted augmentations of Figure 13.
    """
    titles = args.titles or args.views
    if len(titles) != len(args.views):
        run.fail("--titles needs one title for each view folder.", 2)
    paths = spread(find_images(args.data), args.images)
    columns = {}
    for title, view in zip(titles, args.views, strict=True):
        columns[title] = read_beside(view, paths)
        if not columns[title]:
            run.fail(f"{view} lacks images of {args.data}: finish 02_augment.py for it first.")
    size = len(columns[titles[0]][0]) if columns else args.size
    originals = [read_square(Path(args.data, path), size) for path in paths]
    columns = {"original": originals} | (columns or augmented(originals, paths, args))
    rows = list(zip(*columns.values(), strict=True))
    contact_sheet(args.out, rows, list(columns), cell=min(160, max(64, size)))
    print(f"{args.out} is written")
