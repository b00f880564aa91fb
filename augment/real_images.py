"""Real images in place of generated ones: hand-crafted changes of an image, and other images.

crop, jitter and blur are one augmentation of VICReg's first view each, made with probability 1
(Table 6). same-class takes another image of the same class. It uses the labels, so it is no method
but a ceiling: no generator makes a better positive. neighbour takes the image that an encoder finds
most similar, without labels. Used by 02 alone.
"""

import os
from functools import partial

from augment.strategy import Strategy, read_square, views_argument
from base import cli, run
from base.parallel import everyone, rank, world


def size_argument(p):
    p.add_argument("--size", type=cli.positive, default=256, help="side of the images in pixels")


def other_arguments(p):
    size_argument(p)
    views_argument(p)


def neighbour_arguments(p):
    other_arguments(p)
    p.add_argument(
        "--backbone",
        required=True,
        help="encoder that says what is similar: a run folder of 03_pretrain.py or a weight file",
    )


def strategy(make, size, views=1, record=None, prepare=None):
    """The Strategy whose images are make(image, path, view), uint8 (size, size, 3)."""
    import numpy as np
    import torch

    def generate(images, paths):
        pairs = list(zip(images.numpy(), paths, strict=True))
        made = [[make(*pair, view) for pair in pairs] for view in range(views)]
        return torch.from_numpy(np.array(made))

    return Strategy(
        views=[f"view{view}" for view in range(views)],
        read=partial(read_square, size=size),
        generate=generate,
        size=size,
        parameters=None,
        record=record or {},
        prepare=prepare,
    )


# ---------------------------------------------------------------- hand-crafted
def handcrafted(name, args, device):
    """crop: of 8 to 100 % of the area. jitter: of colours. blur: of sigma 0.1 to 2 pixels."""
    from images import views

    probability_one = {
        "crop": {"scale": views.FIRST["scale"]},
        "jitter": {"jitter_p": 1.0},
        "blur": {"blur": 1.0},
    }
    nothing = {"scale": None, "jitter_p": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    augmentation = views.FIRST | nothing | probability_one[name]

    def make(image, path, view):
        side = len(image)
        rng = run.seed_rng(args.seed, path, name)
        box, _, choices = views.draw_choices(augmentation, side, side, rng)
        return views.colour(views.resized_crop(image, box, side), choices)

    return strategy(make, args.size)


# ---------------------------------------------------------------- other images
def same_class(args, device):
    """Another image of the same class, drawn at random for each view."""
    from images.files import class_of, find_images

    members = {}
    for path in find_images(args.data):
        members.setdefault(class_of(path), []).append(path)
    alone = members.get("", []) + [paths[0] for paths in members.values() if len(paths) < 2]
    if alone:
        run.fail(
            f"same-class needs folders ROOT/CLASS with at least two images, and {alone[0]} has no "
            "other image of its class beside it.",
            2,
        )

    def make(image, path, view):
        paths = members[class_of(path)]
        number = paths.index(path)
        others = paths[number + 1 :] + paths[:number]
        drawn = run.seed_rng(args.seed, path, view).integers(len(others))
        # Those after the one that is drawn stand in for it if it cannot be read.
        return read_first(args.data, others[drawn:] + others[:drawn], args.size, path)

    return strategy(make, args.size, args.views)


def neighbour(args, device):
    """The images nearest to it in the features of --backbone (cosine), one for each view."""
    from images.files import find_images
    from models.resnet import load_backbone

    paths = find_images(args.data)
    if len(paths) <= args.views:
        run.fail(f"--views {args.views}: there are only {len(paths)} images.", 2)
    backbone, _, info = load_backbone(args.backbone)
    nearest = {}  # {path: the paths nearest to it}

    def prepare():
        import torch

        from evaluate import features
        from images.unreadable import ImageList

        crop = partial(features.centre_crop, size=info["args"].get("size") or 224)
        files = ImageList(args.data, paths, args.max_unreadable)
        how = (crop, device, args.precision, args.workers)
        x, rows = features.extract(backbone, files, *how, everywhere=True)
        torch.nn.functional.normalize(x, dim=1, out=x)  # in place: ImageNet's take 10 GB
        read = [paths[row] for row in rows.tolist()]
        for begin in range(1024 * rank(), len(read), 1024 * world()):
            cosines = x[begin : begin + 1024] @ x.T
            for row, indices in enumerate(cosines.topk(args.views + 1, 1).indices.tolist(), begin):
                nearest[read[row]] = [read[index] for index in indices if index != row]
        for part in everyone(nearest):
            nearest.update(part)

    def make(image, path, view):
        return read_first(args.data, [nearest[path][view]], args.size, path)

    record = {"backbone sha256": info["sha256"]}
    return strategy(make, args.size, args.views, record, prepare)


def read_first(root, candidates, size, path):
    """The square of the first of the candidates that can be read."""
    from images.read import UnreadableImage

    for other in candidates:
        try:
            return read_square(os.path.join(root, other), size)
        except UnreadableImage:
            continue  # where it is read for its own sake, it is named
    run.fail(f"No other image can be read that could stand in for {path}.")
