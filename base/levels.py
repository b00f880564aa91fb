"""Levels and bands: what is black and white in images of more than 8 bits, which bands are shown.

Cameras, microscopes and satellites store 12 bits in 16, floats in [0, 1], or -9999 for "no data".
No file says which value is white. So the user says it, once for all stages: with --levels and
--bands, or with GCL_LEVELS="0 4095" and GCL_BANDS="4 3 2" in the environment. The flags set these
variables too, because the environment reaches every process that reads images.

Images of 8 bits are read as they are, whatever the levels. TIFF files alone may have more bits.
Used by base/cli.py (the flags) and images/read.py.
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
        setattr(namespace, self.dest, tuple(values))
        os.environ[self.const] = " ".join(map(str, values))
        check_environment(parser.error)


def arguments(p):
    """Add --levels and --bands to a parser; their defaults are what the environment says."""
    check_environment(p.error)
    p.add_argument(
        "--levels",
        action=_InEnvironment,
        const=LEVELS,
        default=levels(),
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
        default=bands(),
        nargs="+",
        type=int,
        metavar="N",
        help="red, green and blue among the bands of TIFF files, counted from 1, such as 4 3 2, or "
        f"one band for gray; the same in all stages, so {BANDS} can be set instead",
    )


def check_environment(refuse):
    """Call refuse(sentence) if the environment holds levels or bands that there cannot be."""
    try:
        levels()
        bands()
    except ValueError as error:
        refuse(str(error))


def levels():
    """(LOW, HIGH) of GCL_LEVELS, or None. Raises ValueError if it is not two different numbers."""
    pair = _numbers(os.environ.get(LEVELS, ""), float)
    if pair is not None and not (len(set(pair)) == len(pair) == 2 and np.isfinite(pair).all()):
        raise ValueError(f"--levels (or {LEVELS}) takes two different numbers, black and white")
    return pair


def bands():
    """(red, green, blue) of GCL_BANDS, counted from 1, or (gray,), or None.

    Raises ValueError if it is not three numbers or one."""
    chosen = _numbers(os.environ.get(BANDS, ""), int)
    if chosen is not None and (len(chosen) not in (1, 3) or min(chosen) < 1):
        raise ValueError(f"--bands (or {BANDS}) takes three numbers of bands, or one, from 1 on")
    return chosen


def _numbers(text, kind):
    """The numbers of a text: a tuple, empty if there are other words. None without a word."""
    try:
        return tuple(map(kind, text.split())) or None
    except ValueError:
        return ()


# ---------------------------------------------------------------- values
def eight_bits(values):
    """Values of any type, (H, W, bands) -> uint8 of the same shape, LOW black and HIGH white.

    What lies outside is cut off, NaN ("no data") is black. Raises Unclear without levels."""
    if values.dtype == np.uint8:
        return values
    low_high = levels()
    if low_high is None:
        raise Unclear(
            f"{values.dtype} values from {values.min():g} to {values.max():g} need --levels LOW "
            f'HIGH, black and white (or set {LEVELS}="LOW HIGH" for all stages)'
        )
    low, high = low_high
    scaled = (values.astype(np.float64, casting="same_kind") - low) * (255 / (high - low))
    return np.nan_to_num(scaled).round().clip(0, 255).astype(np.uint8)
