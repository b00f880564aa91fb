"""Other real images in place of generated ones: what a perfect generator could bring, and less.

same-class takes another image of the same class. It uses the labels, so it is no method but a
ceiling: no generator makes a better positive. neighbour takes the image that an encoder finds most
similar, without labels.
"""

from functools import partial

from models import run
from models.strategy import Strategy, read_square


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
    from models.images import class_of, find_images

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
    others = {}
    for paths in members.values():
        for place, path in enumerate(paths):
            chosen = []
            for view in range(args.views):
                step = run.seed_rng(args.seed, path, view).integers(1, len(paths))
                chosen.append(paths[(place + step) % len(paths)])
            others[path] = chosen
    return strategy(args, others, {})


def neighbour(args, device):
    """The image nearest to it in the features of --backbone (cosine), the next nearest, and so
    on.
    """
    import os

    import torch

    from models import features
    from models.images import find_images
    from models.resnet import load_backbone

    paths = find_images(args.data)
    if len(paths) <= args.views:
        run.fail(f"--views {args.views}: there are only {len(paths)} images.", 2)
    backbone, _, info = load_backbone(args.backbone)
    size = info["args"].get("size") or 224
    crop = partial(features.centre_crop, size=size)
    files = [os.path.join(args.data, path) for path in paths]
    found = features.extract_all(backbone, files, crop, device, args.precision, args.workers)
    found = torch.nn.functional.normalize(found, dim=1)
    others = {}
    for begin in range(0, len(paths), 1024):
        part = found[begin : begin + 1024]
        nearest = (part @ found.T).topk(args.views + 1, 1).indices.tolist()
        for row, indices in enumerate(nearest, begin):
            chosen = [paths[index] for index in indices if index != row]
            others[paths[row]] = chosen[: args.views]
    return strategy(args, others, {"backbone sha256": info["sha256"]})


def strategy(args, others, record):
    """The Strategy that stores the images others[path], one for each view."""
    return Strategy(
        views=[f"view{view}" for view in range(args.views)],
        read=partial(read_square, size=args.size),
        generate=partial(generate, root=args.data, others=others, size=args.size),
        size=args.size,
        parameters=None,
        record=record,
    )


def generate(images, paths, *, root, others, size):
    """uint8 (B, S, S, 3) and their paths -> uint8 (views, B, S, S, 3); see `Strategy.generate`."""
    import os

    import numpy as np
    import torch

    taken = []
    for path in paths:
        squares = [read_square(os.path.join(root, other), size) for other in others[path]]
        taken.append(np.stack(squares))
    return torch.from_numpy(np.stack(taken, 1))
