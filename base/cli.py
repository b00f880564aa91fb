"""Command lines: parsers in the style of the house, types of values, flags of many stages.

Used by every stage, before anything heavy is imported.
"""

import argparse
import math
import os
import sys

from base import levels


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        text = action.help or ""
        hidden = any(action.default is value for value in (None, False, argparse.SUPPRESS))
        if hidden or not action.option_strings or action.default == []:
            return text
        if isinstance(action.default, (list, tuple)):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"


def parser(doc):
    """An argparse parser in the style of the house: the script's docstring is its manual."""
    return argparse.ArgumentParser(description=doc, formatter_class=_Help, allow_abbrev=False)


def subparser(commands, name, doc):
    """The same for a subcommand; `commands` is what `parser.add_subparsers` returned."""
    return commands.add_parser(
        name, help=doc, description=doc, formatter_class=_Help, allow_abbrev=False
    )


def within(kind, low, high, words):
    """An argparse type: the numbers of a kind, int or float, from low to high; words name them."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not {words}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where a text is no number
    return convert


_LARGEST = sys.float_info.max
_INT32 = 2**31 - 1  # above it torch cannot count in many places
fraction = within(float, 0, 1, "between 0 and 1")
from_zero = within(float, 0, _LARGEST, "a finite number, 0 or above")
above_zero = within(float, math.ulp(0), _LARGEST, "a finite number above 0")
positive = within(int, 1, _INT32, "a whole number above 0 and below 2**31")
zero_or_more = within(int, 0, _INT32, "a whole number, 0 or above and below 2**31")


def numbers(p, **flags):
    """Add flags to a parser. flags: name=(type, default, help)."""
    for name, (kind, default, meaning) in flags.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=meaning)


def device_arguments(p, workers=8):
    """Add to a parser where and how to compute (--device, --precision, --workers) and to read."""
    p.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cuda", "cpu"],
        help="where to compute; auto takes a GPU if there is one",
    )
    p.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "bf16", "fp32"],
        help="number format of the networks; auto takes bf16 where the hardware computes in it",
    )
    reading_arguments(p, workers)


def reading_arguments(p, workers=8):
    """Add to a parser how images are read: processes, how many may be unreadable, levels, bands."""
    p.add_argument(
        "--workers",
        type=zero_or_more,
        default=min(workers, os.cpu_count() or 1),  # more than there are cores would only wait
        metavar="N",
        help="processes that read images, for each GPU; 0 reads in the main process",
    )
    p.add_argument(
        "--max-unreadable",
        type=fraction,
        default=0.001,
        metavar="SHARE",
        help="share of a folder's images that may be unreadable. They are named and left out (in "
        "training the next image stands in); with more of them the run ends. It is rounded down, "
        "so of fewer than 1,000 images every one must be readable unless this is raised",
    )
    levels.arguments(p)
