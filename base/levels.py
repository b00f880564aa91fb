"""What is black and what is white in images of more than 8 bits, and which of many bands are shown.

Cameras, microscopes and satellites store 12 bits in 16, floats in [0, 1], or -9999 for "no data".
No file says which value is white. So the user says it, once for all stages: with --levels and
--bands, or with GCL_LEVELS="0 4095" and GCL_BANDS="4 3 2" in the environment. The flags set these
variables too, because the environment reaches every process that reads images.

Images of 8 bits are read as they are, whatever the levels.
"""

import argparse
import os

import numpy as np

LEVELS = "GCL_LEVELS"
BANDS = "GCL_BANDS"


class Unclear(ValueError):
    """Nothing says how values are to be shown. The message says what to choose."""


# ---------------------------------------------------------------- what the user says
class _InEnvironment(argparse.Action):
    """Store a flag's values, also in the variable that `const` names, and check them."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values)
        os.environ[self.const] = " ".join(map(str, values))
        try:
            levels()
            bands()
        except ValueError as error:
            parser.error(str(error))


def arguments(p):
    """Add --levels and --bands to a parser; their defaults are what the environment says."""
    try:
        default_levels = levels()
        default_bands = bands()
    except ValueError as error:
        p.error(str(error))
    p.add_argument(
        "--levels",
        action=_InEnvironment,
        const=LEVELS,
        default=default_levels,
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="black and white of images with more than 8 bits, such as 0 4095; the same in all "
        f"stages, so {LEVELS} can be set instead",
    )
    p.add_argument(
        "--bands",
        action=_InEnvironment,
        const=BANDS,
        default=default_bands,
        nargs="+",
        type=int,
        metavar="N",
        help="red, green and blue among the bands of TIFF files, counted from 1, such as 4 3 2, or "
        f"one band for gray; the same in all stages, so {BANDS} can be set instead",
    )


def levels():
    """[LOW, HIGH] of GCL_LEVELS, or None. Raises ValueError if it is not two different numbers."""
    numbers = _numbers(LEVELS, float)
    if numbers is None:
        return None
    if len(numbers) != 2 or numbers[0] == numbers[1] or not np.isfinite(numbers).all():
        raise ValueError(f"--levels (or {LEVELS}) takes two different numbers, black and white")
    return numbers


def bands():
    """[red, green, blue] of GCL_BANDS, counted from 1, or [gray], or None.

    Raises ValueError if it is not three numbers or one."""
    numbers = _numbers(BANDS, int)
    if numbers is None:
        return None
    if len(numbers) not in (1, 3) or min(numbers) < 1:
        raise ValueError(f"--bands (or {BANDS}) takes three numbers of bands, or one, from 1 on")
    return numbers


def _numbers(variable, kind):
    text = os.environ.get(variable, "")
    if not text.strip():
        return None
    try:
        return [kind(word) for word in text.split()]
    except ValueError:
        raise ValueError(f"{variable}={text!r} is not a list of numbers") from None


# ---------------------------------------------------------------- values
def value_range(values):
    """[the smallest, the largest] finite value, as floats; [] if there is none."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return []
    return [float(values.min()), float(values.max())]


def describe(types, numbers):
    """Words for images of these types, whose values reach from the least to the greatest number."""
    kinds = " and ".join(sorted(types))
    if not numbers:
        return f"{kinds} images without a finite value"
    return f"{kinds} images with values from {min(numbers):g} to {max(numbers):g}"


def eight_bits(values):
    """Values of any type, (H, W, bands) -> uint8 of the same shape, LOW black and HIGH white.

    What lies outside is cut off, NaN ("no data") is black. Without levels, 16-bit values are taken
    to fill their range. Raises Unclear for other types without levels."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "uif":
        raise ValueError(f"{values.dtype} values are no image")
    chosen = levels()
    if chosen is None:
        if values.dtype != np.uint16:
            found = describe({str(values.dtype)}, value_range(values))
            raise Unclear(f"{found} need --levels LOW HIGH, black and white (or set {LEVELS})")
        if values.shape[2] == 3:
            return (values >> 8).astype(np.uint8)  # as Pillow converts 16-bit colours
        chosen = [0, 65535]
    low, high = chosen
    scaled = values.astype(np.result_type(values.dtype, np.float32))
    scaled -= low
    scaled *= 255 / (high - low)
    np.nan_to_num(scaled, copy=False)
    return scaled.round().clip(0, 255).astype(np.uint8)
