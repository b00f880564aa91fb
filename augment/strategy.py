"""What a generative augmentation is to stage 02: the contract that every strategy keeps.

This file and those of the strategies import nothing heavy at the top, so that --help answers at
once. Their functions import what they need. Used by every strategy, and by 00, 07 and extras/ for
squares and bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

from base import cli


class Strategy(NamedTuple):
    """A generative augmentation, ready to work.

    views: sub-folders of the mirror, one for each generated image of an original ("view0" ...).
    read(path): uint8 (S, S, 3) array. It runs in the processes that read images, so it must be a
        function at the top level of a file, or a functools.partial of one.
    generate(images, paths): uint8 (B, S, S, 3) tensor on the CPU and B paths relative to --data ->
        uint8 (views, B, s, s, 3) tensor on the CPU. All that is random about an image must be a
        function of the seed, its path and the view.
    size: s, the side of a generated image in pixels.
    parameters: the number of the model's parameters, or None if there is no model.
    record: {name: value} of all that the images depend on beside --data and the flags, such as the
        sha256 of the weights. It stands in augment.json, and a mirror is only continued with an
        equal one.
    prepare(): what takes long and is only needed to generate. Every process calls it before the
        first `generate`, unless the mirror is finished.
    """

    views: list[str]
    read: Callable
    generate: Callable
    size: int
    parameters: int | None
    record: dict
    prepare: Callable | None = None


class Entry(NamedTuple):
    """What the table of strategies (augment/registry.py) holds of one.

    sentence: what it does, for --help.
    add_arguments(parser): adds its flags.
    build(args, device): the Strategy.
    """

    sentence: str
    add_arguments: Callable
    build: Callable


def views_argument(p):
    p.add_argument(
        "--views",
        type=cli.positive,
        default=1,
        help="images made of each image, independent draws; each is a view",
    )


def read_square(path, size=256):
    """An image file -> uint8 (size, size, 3): shorter side to `size`, centre square."""
    from images.pictures import square
    from images.read import read_image

    return square(read_image(path), size)


def from_bytes(images, device):
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1] on the device."""
    planes = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    # The copy matters: in the layout that permute leaves, torch's group norm loses digits on a CPU.
    return planes.contiguous().float() / 255


def to_bytes(images):
    """float (B, 3, S, S) in [0, 1] -> uint8 (B, S, S, 3) on the CPU."""
    levels = (images.float().clamp(0, 1) * 255).round().byte()
    return levels.permute(0, 2, 3, 1).contiguous().cpu()
