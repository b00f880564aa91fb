"""Sheets of images beside what becomes of them, as the dissertation's figures show them.

Used by 07_metrics.py sheet.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional

from augment import masks, real_images
from augment.strategy import read_square
from base import run
from images.files import evenly, find_images, stem_of, suffixes_in
from images.pictures import contact_sheet
from images.read import read_image


def read_beside(folder, paths):
    """The images of the folder with these paths, whatever their extension; [] if one is missing."""
    images = []
    for path, suffix in zip(paths, suffixes_in(folder, paths), strict=True):
        if not suffix:
            return []
        file = stem_of(path) + suffix.decode()
        images.append(read_image(Path(folder, file)))
    return images


# ---------------------------------------------------------------- Figure 13
def sobel(image):
    """The magnitude of the gradient of a (3, H, W) tensor."""
    gray = functional.rgb_to_grayscale(image)[0].float().numpy()
    across = cv2.Sobel(gray, -1, 1, 0)
    down = cv2.Sobel(gray, -1, 0, 1)
    magnitude = torch.from_numpy(np.hypot(across, down))
    return magnitude.expand(3, -1, -1)


def cutout(image):
    """A black square a quarter as wide as a (3, S, S) tensor."""
    quarter = len(image[0]) // 4
    return functional.erase(image, quarter, quarter, quarter, quarter, torch.tensor(0))


AUGMENTATIONS = {  # of uint8 (3, S, S) tensors
    "flipping": functional.horizontal_flip,
    "grayscale": lambda image: functional.rgb_to_grayscale(image, 3),
    "rotation": lambda image: functional.rotate(image, 30),
    "cutout": cutout,
    "Gaussian noise": lambda image: torch.normal(image.float(), 25),
    "Sobel filtering": sobel,
    "solarization": lambda image: functional.solarize(image, 128),
}


def augmented(originals, paths, args):
    """{title: images}: the augmentations of stage 02, then those that stand above."""
    images = torch.from_numpy(np.stack(originals))
    columns = {}
    for title, name in {"cropping": "crop", "color jitter": "jitter", "blur": "blur"}.items():
        strategy = real_images.handcrafted(name, args, None)
        (view,) = strategy.generate(images, paths)
        columns[title] = view.numpy()
    torch.manual_seed(args.seed)  # for the noise
    for title, change in AUGMENTATIONS.items():
        changed = []
        for image in images.permute(0, 3, 1, 2):
            image = change(image).clamp(0, 255).byte()
            changed.append(image.permute(1, 2, 0).numpy())
        columns[title] = changed
    return columns


# ---------------------------------------------------------------- the sheet
def predicted(data, view, originals, paths, side):
    """The originals, gray where tokens were predicted for this view of a mirror; [] if none were.

    side: the tokens of an image, each way.
    """
    args = run.read_json(Path(view).parent / "augment.json")["args"]
    if args.get("mask", "none") == "none":
        return []
    number = int(Path(view).name.removeprefix("view"))
    mask, _ = masks.masks_of(args["mask"], data, side)
    pictures = []
    for image, path in zip(originals, paths, strict=True):
        rng = run.seed_rng(args["seed"], path, number)
        tokens = mask(path, rng).reshape(side, side)
        pixels = np.kron(tokens, np.ones([len(image) // side] * 2, bool))
        pictures.append(np.where(pixels[..., None], np.uint8(128), image))
    return pictures


def draw_sheet(args):
    """Write args.out: images side by side, and below them their namesakes in the view folders, or,
    where none are given, what the hand-crafted augmentations of Figure 13 make of them.
    """
    if not args.out.endswith(".png"):
        run.fail(f"--out {args.out} must be the name of a .png file.", 2)
    titles = args.titles or args.views
    if len(titles) != len(args.views):
        run.fail("--titles needs one title for each view folder.", 2)
    paths = evenly(find_images(args.data), args.images)
    made = [read_beside(view, paths) for view in args.views]
    for view, images in zip(args.views, made, strict=True):
        if not images:
            run.fail(f"{view} lacks images of {args.data}: finish 02_augment.py for it first.")
    size = len(made[0][0]) if made else args.size
    originals = [read_square(Path(args.data, path), size) for path in paths]
    rows = {"original": originals}
    if not made:
        rows |= augmented(originals, paths, args)
    for title, view, images in zip(titles, args.views, made, strict=True):
        if args.tokens:
            if gray := predicted(args.data, view, originals, paths, args.tokens):
                rows[f"{title}, masked"] = gray
        rows[title] = images
    contact_sheet(args.out, rows.values(), labels=list(rows), cell=min(160, max(64, size)))
    print(f"{args.out} is written")
