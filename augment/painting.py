"""In- and out-painting with MaskGIT (dissertation, section 4.3).

The tokenizer turns an image into a grid of tokens, some are masked, the transformer predicts those,
and the tokenizer turns the tokens into an image again. Used by 02 and report/sheet.py.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

from augment import masks
from augment.strategy import Strategy, from_bytes, read_square, to_bytes, views_argument
from base import cli, run

POSITIONS = (  # of a shrunken image on its canvas: the dissertation's Figure 27
    "upper-left upper-center upper-right center-left center center-right lower-left lower-center "
    "lower-right"
).split()


# ---------------------------------------------------------------- arguments
def label_choice(text):
    """argparse type: 'true' -> None, 'random' as it is, a class index -> int."""
    if text == "true":
        return None
    return text if text == "random" else cli.zero_or_more(text)


def maskgit_arguments(p):
    p.add_argument(
        "--weights",
        metavar="PATH",
        help="run folder of 00_train_generator.py or its generator.pth, or a folder with the two "
        "published MaskGIT files; without it those are looked for in $GCL_WEIGHTS (~/.cache/gcl), "
        "then downloaded",
    )
    p.add_argument(
        "--schedule",
        choices=list(masks.SCHEDULES),
        help="how fast the number of masked tokens falls; without it cosine, as published",
    )
    cli.numbers(
        p,
        steps=(cli.positive, 12, "iterations of the decoding"),
        temperature=(
            cli.from_zero,
            4.5,
            "factor of the noise on the confidences; more of it makes more varied images",
        ),
        top_k=(
            cli.positive,
            None,
            "number of codes, the likeliest, from which each token is drawn; without it all; "
            "a few dozen leave fewer stray patches where the transformer is small",
        ),
        softmax_temperature=(
            cli.above_zero,
            1.0,
            "divisor of the logits of the codes; below 1, likely codes are drawn more often",
        ),
    )
    p.add_argument(
        "--label",
        type=label_choice,
        metavar="true|random|N",
        help="class that a class-conditional model is given. true, also without this flag: the "
        "image's folder name as an ImageNet synset (n01440764), with which labels enter a training "
        "that is to do without; controls are random, a class drawn for each image, and one class "
        "index N for all images",
    )
    p.add_argument(
        "--composite",
        action="store_true",
        help="keep the original's pixels where nothing was masked; without this flag they are the "
        "tokenizer's reconstruction, as published",
    )


def inpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--mask",
        type=masks.mask_name,
        default="center",
        help="tokens that are predicted. center: all but the outer ring; ring: the outer ring; "
        "random:P: each with probability P; block:P: one rectangle with the share P of them; "
        "none: nothing, which gives the tokenizer's reconstruction (a control); file:FOLDER: those "
        "that are white in the grey image with the same relative path in FOLDER",
    )
    views_argument(p)


def outpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--positions",
        nargs="+",
        default=["all"],
        choices=["all", *POSITIONS],
        metavar="POSITION",
        help="places of the shrunken image on the canvas, each a view: all, or some of "
        + " ".join(POSITIONS),
    )


# ---------------------------------------------------------------- positions
def positions(size):
    """{name: (top, left, side) of the shrunken image in pixels}, in the order of POSITIONS.

    A canvas of 256 px carries an image of 196 px at the offsets 0, 30 and 60; other sizes in
    proportion.
    """
    side = round(size * 196 / 256)
    offsets = [round(size * offset / 256) for offset in (0, 30, 60)]
    corners = itertools.product(offsets, offsets)
    return {name: (*corner, side) for name, corner in zip(POSITIONS, corners, strict=True)}


def uncovered(size, patch, top, left, side):
    """bool (tokens,): True where a token's pixels are not wholly covered by the shrunken image."""
    edge = np.arange(size // patch) * patch
    rows = (edge >= top) & (edge + patch <= top + side)
    columns = (edge >= left) & (edge + patch <= left + side)
    return ~np.outer(rows, columns).ravel()


# ---------------------------------------------------------------- labels
@functools.cache
def _synsets():
    """{name of an ImageNet synset: its index}."""
    lines = Path(__file__).with_name("imagenet_synsets.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    return {name: index for index, name in enumerate(names)}


def synset_index(path):
    """Index among the 1,000 ImageNet synsets of the first folder in `path` that is one, or None."""
    indices = [_synsets().get(folder) for folder in Path(path).parts[:-1]]
    return next((index for index in indices if index is not None), None)


def check_label(label, classes):
    """Refuse a --label that a model with so many classes cannot be given."""
    if label is not None and (classes == 0 or label != "random" and label >= classes):
        run.fail(f"--label {label}: this model was trained with {classes} labels, from 0 on.", 2)


def label_of(path, label, classes, seed):
    """The class index that an image's path is given by --label."""
    if label == "random":
        return int(run.seed_rng(seed, path, "label").integers(classes))
    if label is None:
        label = synset_index(path)
    if label is None or label >= classes:
        run.fail(
            f"{path}: this model needs a class, and the folder name is none of its {classes} "
            "ImageNet synsets (n01440764 ...): pass --label N, or use a label-free model.",
            2,
        )
    return label


# ---------------------------------------------------------------- painting
class Painter:
    """A MaskGIT on its device that predicts masked tokens of images.

    predicts: whether it is to predict any. size: the side of its images in pixels. patch: the side
    of a token in pixels.
    """

    def __init__(self, args, device, predicts=True):
        import torch

        from images.files import find_images
        from models.maskgit import Sampling
        from models.published_maskgit import load_maskgit

        self.device = device
        self.seed = args.seed
        self.precision = args.precision
        self.label = args.label
        self.composite = args.composite
        schedule = masks.shares(args.schedule or "cosine", args.steps)
        self.sampling = Sampling(schedule, args.temperature, args.top_k, args.softmax_temperature)
        self.tokenizer, self.transformer, files = load_maskgit(args.weights)
        networks = [self.tokenizer]
        if self.transformer is not None:
            networks.append(self.transformer)
            classes = self.transformer.classes
            check_label(self.label, classes)
            if predicts and classes and self.label is None:
                for path in find_images(args.data):  # before anything is written
                    label_of(path, None, classes, self.seed)
        elif predicts:
            run.fail(
                f"{args.weights} holds only a tokenizer: train a transformer with "
                "00_train_generator.py maskgit. Without one there is inpaint --mask none.",
                2,
            )
        self.patch = self.tokenizer.patch
        self.size = self.tokenizer.image_size
        self.record = {"weights sha256": files}
        self.parameters = 0
        if device.type == "cuda":
            self.tokenizer.to(memory_format=torch.channels_last)
        for network in networks:
            network.to(device)
            self.parameters += sum(p.numel() for p in network.parameters())

    def paint(self, images, paths, view, mask):
        """Predict tokens of images, uint8 (B, S, S, 3) where S is `size`.

        mask(path, rng): which tokens of an image, bool (tokens,). view: the number of the view,
        which with an image's path and the seed decides on all that is random.
        """
        import torch

        from models import maskgit

        rngs = [run.seed_rng(self.seed, path, view) for path in paths]
        hidden = np.stack([mask(path, rng) for path, rng in zip(paths, rngs, strict=True)])
        with torch.inference_mode(), run.autocast(self.device, self.precision):
            pixels = from_bytes(images, self.device)
            tokens = self.tokenizer.encode(pixels)
            predicted = torch.from_numpy(hidden).to(self.device)
            if hidden.any():
                classes = self.transformer.classes
                labels = None
                if classes:
                    labels = [label_of(path, self.label, classes, self.seed) for path in paths]
                    labels = torch.tensor(labels, device=self.device)
                tokens = tokens.masked_fill(predicted, maskgit.MASK)
                tokens = maskgit.sample(self.transformer, tokens, labels, rngs, self.sampling)
            decoded = self.tokenizer.decode(tokens)
            if self.composite:
                side = self.size // self.patch
                mask = predicted.view(-1, 1, side, side)
                mask = mask.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
                decoded = torch.where(mask, decoded, pixels)
            return to_bytes(decoded)

    def strategy(self, read_size, numbers, draw, record):
        """The Strategy of views with these numbers; draw(images, paths, number) makes one."""
        import torch

        def generate(images, paths):
            return torch.stack([draw(images, paths, number) for number in numbers])

        views = [f"view{number}" for number in numbers]
        read = functools.partial(read_square, size=read_size)
        return Strategy(views, read, generate, self.size, self.parameters, self.record | record)


def inpaint(args, device):
    """Mask tokens of an image, predict them (section 4.3; random masks: section 5.7)."""
    painter = Painter(args, device, predicts=args.mask != "none")
    side = painter.size // painter.patch
    mask, record = masks.masks_of(args.mask, args.data, side)

    def draw(images, paths, view):
        return painter.paint(images, paths, view, mask)

    return painter.strategy(painter.size, range(args.views), draw, record)


def outpaint(args, device):
    """Lay the shrunken image on a black canvas, predict what it does not cover (section 4.3)."""
    import torch

    painter = Painter(args, device)
    size = painter.size
    places = positions(size)
    wanted = POSITIONS if "all" in args.positions else args.positions
    # A view keeps its position's number, so that some of the positions give the same files as all.
    numbers = [number for number, name in enumerate(POSITIONS) if name in wanted]

    def draw(images, paths, number):
        top, left, side = places[POSITIONS[number]]
        canvas = torch.zeros(len(images), size, size, 3, dtype=torch.uint8)
        canvas[:, top : top + side, left : left + side] = images
        hidden = uncovered(size, painter.patch, top, left, side)
        return painter.paint(canvas, paths, number, lambda path, rng: hidden)

    record = {"positions": {f"view{number}": name for number, name in enumerate(POSITIONS)}}
    return painter.strategy(places["center"][2], numbers, draw, record)
