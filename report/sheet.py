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
        tokens = mask(path, run.seed_rng(args["seed"], path, number)).reshape(side, side)
        pixels = tokens.repeat(len(image) // side, 0).repeat(len(image) // side, 1)
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
    rows = {"original": originals} | ({} if made else augmented(originals, paths, args))
    for title, view, images in zip(titles, args.views, made, strict=True):
        if args.tokens and (gray := predicted(args.data, view, originals, paths, args.tokens)):
            rows[f"{title}, masked"] = gray
        rows[title] = images
    contact_sheet(args.out, rows.values(), labels=list(rows), cell=min(160, max(64, size)))
    print(f"{args.out} is written")
