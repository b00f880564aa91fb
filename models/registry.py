"""The methods of 03_pretrain.py by name.

A method of one's own is one more entry: `METHODS["mine"] = Entry("my_method")`. Nothing heavy is
imported at the top, so that --help answers at once. Used by 03 alone.
"""

import importlib
from typing import NamedTuple

from base import cli, run


class Entry(NamedTuple):
    """What the table holds of one method.

    module: the name of its file, which holds its settings: PUBLISHED and, for --preset cifar,
        CIFAR. See models/method.py.
    flags: {name: keywords of argparse's add_argument} of its own flags, without a default. One that
        is given replaces the option of the same name in the settings' "head". Methods that share a
        name share the flag.
    """

    module: str
    flags: dict = {}


TEMPERATURE = dict(type=cli.above_zero, help="SimCLR's or SwAV's (default: 0.1)")
QUEUE = dict(type=cli.zero_or_more, help="length of SwAV's queue (default: 3840)")
QUEUE_START = dict(type=cli.from_zero, help="its first epoch (default: 15)")

METHODS = {
    "vicreg": Entry("models.vicreg"),
    "barlow": Entry("models.barlow"),
    "dino": Entry("models.dino"),
    "simclr": Entry("models.simclr", {"temperature": TEMPERATURE}),
    "byol": Entry("models.byol"),
    "swav": Entry(
        "models.swav", {"temperature": TEMPERATURE, "queue": QUEUE, "queue_start": QUEUE_START}
    ),
}


def flags():
    """{name: keywords of add_argument} of the methods' own flags."""
    return {name: about for entry in METHODS.values() for name, about in entry.flags.items()}


def recipe_of(method, backbone="resnet50", preset=None):
    """The settings of a method, with what a preset and then the backbone change. All are names."""
    module = importlib.import_module(METHODS[method].module)
    recipe = getattr(module, (preset or "published").upper(), None)
    if recipe is None:
        run.fail(f"--preset {preset}: {method} has no such settings; leave it out.", 2)
    return recipe | (recipe.get("vit", {}) if backbone.startswith("vit_") else {})


def build_method(name, backbone, dim, **options):
    """The module of a method around `backbone`, which maps (b, 3, H, W) to (b, dim).

    `options` replace those that are published, its "head". projector: as "2048-2048-128"; its last
    width is the number of DINO's outputs and of SwAV's prototypes.
    """
    recipe = recipe_of(name)
    options = recipe["head"] | options
    widths = [int(width) for width in options["projector"].split("-")]
    return recipe["build"](backbone, dim, **options | {"projector": widths})
