"""Command lines: parsers in the style of the house, types of values, flags of many stages.

Used by every stage, before anything heavy is imported.
"""

import argparse
import math
import os

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


def parser(doc, **kwargs):
    """An argparse parser in the style of the house: the script's docstring is its manual."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=_Help, allow_abbrev=False, **kwargs
    )


def subparser(commands, name, doc):
    """The same for a subcommand; `commands` is what `parser.add_subparsers` returned."""
    first_line = doc.strip().splitlines()[0]
    return commands.add_parser(
        name, help=first_line, description=doc, formatter_class=_Help, allow_abbrev=False
    )


def fraction(text):
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def number(text):
    """argparse type: a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def from_zero(text):
    """argparse type: a finite number, 0 or above."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def above_zero(text):
    """argparse type: a finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def positive(text):
    """argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def zero_or_more(text):
    """argparse type: a whole number, 0 or above."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


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
