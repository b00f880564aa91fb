"""Which tokens of an image are predicted, and in which order: masks and decoding schedules by name.

Used by in- and out-painting, diffusion, the training of generators, and report/sheet.py.

A mask is a function mask(side, rng) -> bool (side, side), True where a token is predicted. `side`
is the number of tokens in a row, `rng` is the image's own numpy Generator. The name of a mask with
a parameter says so, and the parameter is the third argument: P is a share from 0 to 1, anything
else is text. A mask of one's own is one more entry of MASKS.

A schedule is a function schedule(done) -> the share of the masked tokens that are masked again,
after the share `done` of the steps. One's own is one more entry of SCHEDULES.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from base import cli, run


# ---------------------------------------------------------------- the masks
def center(side, rng):
    """All tokens but the outer ring."""
    return ~ring(side, rng)


def ring(side, rng):
    """The outer ring: the surroundings change, what stands in the middle stays."""
    mask = np.ones((side, side), bool)
    mask[1:-1, 1:-1] = False
    return mask


def random(side, rng, share):
    """Each token with probability `share` (dissertation, section 5.7)."""
    return rng.random((side, side)) < share


def block(side, rng, share):
    """One rectangle with `share` of the tokens; its place and its shape (1:3 to 3:1) are random."""
    area = share * side**2
    mask = np.zeros((side, side), bool)
    if area < 0.5:
        return mask
    lowest = max(1, area / side, math.sqrt(area / 3))
    highest = min(side, max(1, math.sqrt(area * 3)))
    logarithm = rng.uniform(math.log(lowest), math.log(highest))
    height = round(math.exp(logarithm))
    width = min(side, max(1, round(area / height)))
    top = rng.integers(side - height, endpoint=True)
    left = rng.integers(side - width, endpoint=True)
    mask[top : top + height, left : left + width] = True
    return mask


def none(side, rng):
    """No token: the tokenizer's reconstruction, a control."""
    return np.zeros((side, side), bool)


def from_file(side, rng, file):
    """The tokens that are white (on average 128 to 255) in the centre square of a grey image."""
    from PIL import Image

    from images.read import read_image

    grey = Image.fromarray(read_image(file)).convert("L")
    edge = min(grey.size)
    left = (grey.width - edge) // 2
    top = (grey.height - edge) // 2
    square = grey.crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((side, side), Image.Resampling.BOX)) >= 128


MASKS = {
    "center": center,
    "ring": ring,
    "random:P": random,
    "block:P": block,
    "none": none,
    "file:FOLDER": from_file,
}


# ---------------------------------------------------------------- a mask by its name
def find_mask(text):
    """'random:0.5' -> (the function `random`, [0.5]); 'center' -> (the function `center`, [])."""
    name, colon, parameter = text.partition(":")
    for entry, function in MASKS.items():
        entry_name, entry_colon, kind = entry.partition(":")
        if (name, colon) == (entry_name, entry_colon):
            return function, [cli.fraction(parameter)] if kind == "P" else []
    raise argparse.ArgumentTypeError(f"{text} is not a mask; the masks are {', '.join(MASKS)}")


def mask_name(text):
    """argparse type: a name that `find_mask` knows."""
    find_mask(text)
    return text


def mask_of(text, side, rng, file=None):
    """The mask that `text` names: bool (side * side,), True where a token is predicted.

    file: the image's grey image, for file:FOLDER.
    """
    function, parameters = find_mask(text)
    if function is from_file:
        parameters = [file]
    return function(side, rng, *parameters).ravel()


def mask_files(folder, data):
    """{image: grey image} of all images below `data`; one without a grey image ends the run."""
    from images.files import find_images, stem_of

    files = {stem_of(name): Path(folder, name) for name in find_images(folder)}
    paths = find_images(data)
    grey = {path: files.get(stem_of(path)) for path in paths}
    missing = [path for path in paths if grey[path] is None]
    if missing:
        run.fail(
            f"--mask file:{folder}: {len(missing)} of {len(paths)} images have no mask there, such "
            f"as {', '.join(missing[:3])}.",
            2,
        )
    return grey


def masks_of(text, data, side):
    """(mask(path, rng), as `mask_of`, of an image below `data`; what a mirror records of it)."""
    files, record = {}, {}
    if text.startswith("file:"):
        files = mask_files(text.removeprefix("file:"), data)
        record["mask names"] = run.names_hash(map(str, files.values()))
    return lambda path, rng: mask_of(text, side, rng, files.get(path)), record


# ---------------------------------------------------------------- schedules
SCHEDULES = {  # of MaskGIT (arXiv:2202.04200), section 4.4; cosine is what the paper uses
    "cosine": lambda done: np.cos(np.float32(math.pi / 2) * done),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done**2,
}


def shares(name, steps):
    """The share of the masked tokens that are masked again after each step, floats from 1e-6 to 1.

    They are computed in float32 on the CPU, as in the official code. In float64 cos(pi/3) is 0.5,
    here it is 0.49999997: one token less after two thirds of the steps.
    """
    done = [np.float32(step / steps) for step in range(1, steps + 1)]
    return [float(np.clip(SCHEDULES[name](part), np.float32(1e-6), 1)) for part in done]
