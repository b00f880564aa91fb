"""Sheets of images beside what becomes of them, as the dissertation's figures show them.

Used by 07_metrics.py sheet, and by the figures of a report.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional

from augment import real_images
from augment.strategy import read_square
from base import run
from images.files import evenly, find_images, stem_of, suffixes_in
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
def sobel(image):
    """The magnitude of the gradient of a (3, H, W) tensor."""
    gray = functional.rgb_to_grayscale(image)[0].numpy().astype(np.float32)
    magnitude = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
    return torch.from_numpy(magnitude).expand(3, -1, -1)


AUGMENTATIONS = {  # of uint8 (3, S, S) tensors
    "flipping": functional.horizontal_flip,
    "grayscale": lambda image: functional.rgb_to_grayscale(image, 3),
    "rotation": lambda image: functional.rotate(image, 30),
    "cutout": lambda image: functional.erase(image, *[len(image[0]) // 4] * 4, torch.tensor(0)),
    "Gaussian noise": lambda image: torch.normal(image.float(), 25),
    "Sobel filtering": sobel,
    "solarization": lambda image: functional.solarize(image, 128),
}


def augmented(originals, paths, args):
    """{title: images}: the augmentations of stage 02, then those that stand above."""
    images = torch.from_numpy(np.stack(originals))
    columns = {}
    for title, name in {"cropping": "crop", "color jitter": "jitter", "blur": "blur"}.items():
        columns[title] = (
            real_images.handcrafted(name, args, None).generate(images, paths)[0].numpy()
        )
    torch.manual_seed(args.seed)  # for the noise
    for title, change in AUGMENTATIONS.items():
        changed = [change(image).clamp(0, 255).byte() for image in images.permute(0, 3, 1, 2)]
        columns[title] = torch.stack(changed).permute(0, 2, 3, 1).numpy()
    return columns


# ---------------------------------------------------------------- the sheet
def draw_sheet(args):
    """Write args.out: each image beside its namesakes in the view folders, or, where none are
    given, under the hand-crafted augmentations of Figure 13.
    """
    if not args.out.endswith(".png"):
        run.fail(f"--out {args.out} must be the name of a .png file.", 2)
    titles = args.titles or args.views
    if len(titles) != len(args.views):
        run.fail("--titles needs one title for each view folder.", 2)
    paths = evenly(find_images(args.data), args.images)
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
