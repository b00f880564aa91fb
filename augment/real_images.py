"""Real images in place of generated ones: hand-crafted changes of an image, and other images.

crop, jitter and blur are one augmentation of VICReg's first view each, made with probability 1
(Table 6). same-class takes another image of the same class. It uses the labels, so it is no method
but a ceiling: no generator makes a better positive. neighbour takes the image that an encoder finds
most similar, without labels. Used by 02 and report/sheet.py.
"""

import os
from functools import partial

from augment.strategy import Strategy, read_square, views_argument
from base import cli, run
from base.parallel import rank, union, world


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


# ---------------------------------------------------------------- hand-crafted
def changed(name, image, path, seed):
    """A square image after the hand-crafted change `name`, random by (seed, path, name).

    crop: of 8 to 100 % of the area. jitter: of colours. blur: of sigma 0.1 to 2 pixels.
    """
    from images import views

    probability_one = {
        "crop": {"scale": views.FIRST["scale"]},
        "jitter": {"jitter_p": 1.0},
        "blur": {"blur": 1.0},
    }
    nothing = {"scale": None, "jitter_p": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    augmentation = views.FIRST | nothing | probability_one[name]
    side = len(image)
    rng = run.seed_rng(seed, path, name)
    box, _, choices = views.draw_choices(augmentation, side, side, rng)
    return views.colour(views.resized_crop(image, box, side), choices)


def handcrafted(name, args, device):
    """The Strategy that makes one view by `changed`."""
    import numpy as np
    import torch

    def generate(images, paths):
        pairs = zip(images.numpy(), paths, strict=True)
        made = [changed(name, image, path, args.seed) for image, path in pairs]
        return torch.from_numpy(np.array([made]))

    read = partial(read_square, size=args.size)
    return Strategy(["view0"], read, generate, args.size, None, {})


# ---------------------------------------------------------------- other images
def others(choose, args, record=None, prepare=None):
    """The Strategy whose images are others of --data: the processes that read images read them.

    choose(path, view): the paths of which the first that can be read is taken; it can be sent to
    these processes.
    """
    read = partial(read_others, root=args.data, choose=choose, views=args.views, size=args.size)

    def generate(images, paths):
        return images.unflatten(1, (args.views, args.size)).transpose(0, 1)

    views = [f"view{view}" for view in range(args.views)]
    return Strategy(views, read, generate, args.size, None, record or {}, prepare)


def read_others(file, root, choose, views, size):
    """uint8 (views x size, size, 3): the images that stand for one, one below the other."""
    import numpy as np

    read_square(file, size)  # what stands for an image that cannot be read is never used
    path = os.path.relpath(file, root)
    return np.concatenate([read_first(root, choose(path, view), size) for view in range(views)])


def read_first(root, candidates, size):
    """The square of the first of the candidates that can be read."""
    from images.read import UnreadableImage

    for other in candidates:
        try:
            return read_square(os.path.join(root, other), size)
        except UnreadableImage:
            continue  # where it is read for its own sake, it is named
    raise OSError(f"None of {len(candidates)} images can be read, such as {candidates[0]}.")


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
    return others(partial(draw_of_class, members=members, seed=args.seed), args)


def draw_of_class(path, view, members, seed):
    """The other images of the class, from a random one on. members: {class: paths}."""
    from images.files import class_of

    paths = members[class_of(path)]
    number = paths.index(path)
    rest = paths[number + 1 :] + paths[:number]
    drawn = run.seed_rng(seed, path, view).integers(len(rest))
    return rest[drawn:] + rest[:drawn]


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
        nearest.update(union(nearest))

    record = {"backbone sha256": info["sha256"]}
    return others(partial(nearest_of, nearest=nearest), args, record, prepare)


def nearest_of(path, view, nearest):
    """The one image that is a view of `path`. nearest: {path: the paths nearest to it}."""
    return [nearest[path][view]]
