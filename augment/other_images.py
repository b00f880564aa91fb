"""Other real images in place of generated ones: what a perfect generator could bring, and less.

same-class takes another image of the same class. It uses the labels, so it is no method but a
ceiling: no generator makes a better positive. neighbour takes the image that an encoder finds most
similar, without labels.
"""

from functools import partial

from augment.strategy import Strategy, read_square
from base import run


def same_class_arguments(p):
    _common_arguments(p)


def neighbour_arguments(p):
    _common_arguments(p)
    p.add_argument(
        "--backbone",
        required=True,
        metavar="PATH",
        help="encoder that says what is similar: a run folder of 03_pretrain.py or a weight file",
    )


def _common_arguments(p):
    p.add_argument(
        "--size", type=run.positive, default=256, metavar="PX", help="side of the images in pixels"
    )
    p.add_argument(
        "--views",
        type=run.positive,
        default=1,
        metavar="N",
        help="other images taken for an image, each a view",
    )


def same_class(args, device):
    """Another image of the same class, drawn at random for each view."""
    from images.files import class_of, find_images

    members = {}
    for path in find_images(args.data):
        members.setdefault(class_of(path), []).append(path)
    alone = [paths[0] for paths in members.values() if len(paths) < 2]
    if "" in members or alone:
        lonely = (members.get("") or alone)[0]
        run.fail(
            f"same-class needs folders ROOT/CLASS with at least two images, and {lonely} has no "
            "other image of its class beside it.",
            2,
        )
    places = {}
    for paths in members.values():
        places |= {path: place for place, path in enumerate(paths)}

    def others(path, view):
        """The one that is drawn, then those after it, in case it cannot be read."""
        paths = members[class_of(path)]
        step = run.seed_rng(args.seed, path, view).integers(1, len(paths))
        for more in range(len(paths)):
            other = paths[(places[path] + step + more) % len(paths)]
            if other != path:
                yield other

    return strategy(args, others, {})


def neighbour(args, device):
    """The image nearest to it in the features of --backbone (cosine), the next nearest, and so
    on.
    """
    import torch

    from evaluate import features
    from images.files import find_images
    from images.unreadable import ImageList
    from models.resnet import load_backbone

    paths = find_images(args.data)
    if len(paths) <= args.views:
        run.fail(f"--views {args.views}: there are only {len(paths)} images.", 2)
    backbone, _, info = load_backbone(args.backbone)
    size = info["args"].get("size") or 224
    crop = partial(features.centre_crop, size=size)
    files = ImageList(args.data, paths, args.max_unreadable)
    how = (crop, device, args.precision, args.workers)
    found, rows = features.extract(backbone, files, *how, everywhere=True)
    found = torch.nn.functional.normalize(found, dim=1)
    read = [paths[row] for row in rows.tolist()]
    chosen = {}
    for begin in range(0, len(read), 1024):
        part = found[begin : begin + 1024]
        nearest = (part @ found.T).topk(args.views + 1, 1).indices.tolist()
        for row, indices in enumerate(nearest, begin):
            near = [read[index] for index in indices if index != row]
            chosen[read[row]] = near[: args.views]

    def others(path, view):
        yield chosen[path][view]

    return strategy(args, others, {"backbone sha256": info["sha256"]})


def strategy(args, others, record):
    """The Strategy that stores the first readable image of others(path, view) for each view."""
    return Strategy(
        views=[f"view{view}" for view in range(args.views)],
        read=partial(read_square, size=args.size),
        generate=partial(generate, root=args.data, others=others, views=args.views, size=args.size),
        size=args.size,
        parameters=None,
        record=record,
    )


def generate(images, paths, *, root, others, views, size):
    """uint8 (B, S, S, 3) and their paths -> uint8 (views, B, S, S, 3); see `Strategy.generate`."""
    import numpy as np
    import torch

    taken = []
    for path in paths:
        squares = [read_first(root, others(path, view), size, path) for view in range(views)]
        taken.append(np.stack(squares))
    return torch.from_numpy(np.stack(taken, 1))


def read_first(root, candidates, size, path):
    """The square of the first of the candidates that can be read."""
    import os

    from images.read import UnreadableImage

    for other in candidates:
        try:
            return read_square(os.path.join(root, other), size)
        except UnreadableImage:
            continue  # where it is read for its own sake, it is named
    run.fail(f"No other image can be read that could stand in for {path}.")
