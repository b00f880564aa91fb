"""Hand-crafted augmentations as strategies of stage 02, to compare generated images with (Table 6).

Each is one augmentation of VICReg's first view, made with probability 1.
"""

from functools import partial

from augment.strategy import Strategy, read_square
from base import run


def arguments(p):
    p.add_argument(
        "--size", type=run.positive, default=256, metavar="PX", help="side of the images in pixels"
    )


def crop(args, device):
    """A random-resized crop of 8 to 100 % of the area."""
    return strategy("crop", args)


def jitter(args, device):
    """A random change of brightness, contrast, saturation and hue."""
    return strategy("jitter", args)


def blur(args, device):
    """A Gaussian blur of sigma 0.1 to 2 pixels."""
    return strategy("blur", args)


def strategy(name, args):
    """The Strategy that makes one of the augmentations and nothing else."""
    from images import views

    probability_one = {
        "crop": {"scale": views.FIRST["scale"]},
        "jitter": {"jitter_p": 1.0},
        "blur": {"blur": 1.0},
    }
    nothing = {"scale": None, "jitter_p": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    view = views.FIRST | nothing | probability_one[name]
    return Strategy(
        views=["view0"],
        read=partial(read_square, size=args.size),
        generate=partial(generate, view=view, name=name, seed=args.seed),
        size=args.size,
        parameters=None,
        record={},
    )


def generate(images, paths, *, view, name, seed):
    """uint8 (B, S, S, 3) and their paths -> uint8 (1, B, S, S, 3); see `Strategy.generate`."""
    import torch

    from images import views

    made = []
    for image, path in zip(images.numpy(), paths, strict=True):
        side = len(image)
        box, _, choices = views.draw_choices(view, side, side, run.seed_rng(seed, path, name))
        if view["scale"]:
            image = views.resized_crop(image, box, side)
        made.append(torch.from_numpy(views.colour(image, choices)))
    return torch.stack(made)[None]
