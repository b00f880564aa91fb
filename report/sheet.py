"""The rows of a sheet: images beside what becomes of them, as the dissertation's figures show them.

Used by 07 sheet.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional

from augment import masks, painting, real_images
from base import run
from images.files import mirror_root, stem_of, suffixes_in
from images.pictures import square
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


def augmented(originals, paths):
    """{title: images}: the augmentations of stage 02, then those that stand above."""
    columns = {}
    for title, name in {"cropping": "crop", "color jitter": "jitter", "blur": "blur"}.items():
        pairs = zip(originals, paths, strict=True)
        columns[title] = [real_images.changed(name, image, path, 0) for image, path in pairs]
    torch.manual_seed(0)  # for the noise
    images = torch.from_numpy(np.stack(originals))
    for title, change in AUGMENTATIONS.items():
        columns[title] = []
        for image in images.permute(0, 3, 1, 2):
            image = change(image).clamp(0, 255).byte()
            columns[title].append(image.permute(1, 2, 0).numpy())
    return columns


# ---------------------------------------------------------------- masks
def predicted(data, view, originals, paths, side):
    """The originals, gray where tokens were predicted for this view of a mirror; [] if none were.

    Out-painting has seen them on its canvas. side: the tokens of an image, each way.
    """
    args = run.read_json(mirror_root(view) / "augment.json").get("args", {})
    outpainted = "positions" in args
    if not outpainted and args.get("mask", "none") == "none":
        return []
    number = int(Path(view).name.removeprefix("view"))
    pictures = []
    if outpainted:
        for image in originals:
            canvas = np.full_like(image, 128)
            top, left, small = painting.positions(len(image))[painting.POSITIONS[number]]
            canvas[top : top + small, left : left + small] = square(image, small)
            pictures.append(canvas)
        return pictures
    mask, _ = masks.masks_of(args["mask"], data, side)
    for image, path in zip(originals, paths, strict=True):
        rng = run.seed_rng(args["seed"], path, number)
        tokens = mask(path, rng).reshape(side, side).astype(np.uint8)
        pixels = cv2.resize(tokens, image.shape[:2], interpolation=cv2.INTER_NEAREST)
        pictures.append(np.where(pixels[..., None], np.uint8(128), image))
    return pictures
