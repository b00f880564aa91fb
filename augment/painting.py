"""In- and out-painting with MaskGIT (dissertation, section 4.3).

The tokenizer turns an image into a grid of tokens, some are masked, the transformer predicts those,
and the tokenizer turns the tokens into an image again.
"""

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from augment.masks import mask_files, mask_name, mask_of
from augment.strategy import Strategy, from_bytes, read_square, to_bytes
from base import run

SHEET_MASKS = ("center", "random:0.25", "random:0.5", "random:0.75")


# ---------------------------------------------------------------- arguments
def share_above_zero(text):
    """argparse type: a number above 0, at most 1."""
    value = run.fraction(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 leaves no code to draw: use a number above 0")
    return value


def label_choice(text):
    """argparse type: 'true' -> None, 'random' as it is, a class index -> int."""
    if text == "true":
        return None
    return text if text == "random" else run.zero_or_more(text)


def maskgit_arguments(p):
    p.add_argument(
        "--weights",
        metavar="PATH",
        help="run folder of 00_train_generator.py or its generator.pth, or a folder with the two "
        "published MaskGIT files; without it those are looked for in $GCL_WEIGHTS (~/.cache/gcl), "
        "then downloaded",
    )
    p.add_argument(
        "--steps", type=run.positive, default=12, metavar="N", help="iterations of the decoding"
    )
    p.add_argument(
        "--temperature",
        type=run.from_zero,
        default=4.5,
        metavar="T",
        help="factor of the noise on the confidences; more of it makes more varied images",
    )
    p.add_argument(
        "--top-k",
        type=run.positive,
        metavar="K",
        help="number of codes, the likeliest, from which each token is drawn; without it all; "
        "a few dozen leave fewer stray patches where the transformer is small",
    )
    p.add_argument(
        "--top-p",
        type=share_above_zero,
        default=1.0,
        metavar="P",
        help="probability, above 0, that the codes have together from which each token is drawn: "
        "the likeliest are taken; 1 takes all",
    )
    p.add_argument(
        "--softmax-temperature",
        type=run.above_zero,
        default=1.0,
        metavar="T",
        help="divisor of the logits of the codes; below 1, likely codes are drawn more often",
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


def inpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--mask",
        type=mask_name,
        default="center",
        help="tokens that are predicted. center: all but the outer ring; ring: the outer ring; "
        "random:P: each with probability P; block:P: one rectangle with the share P of them; "
        "none: nothing, which gives the tokenizer's reconstruction (a control); file:FOLDER: those "
        "that are white in the grey image with the same relative path in FOLDER",
    )
    p.add_argument(
        "--views",
        type=run.positive,
        default=1,
        metavar="N",
        help="number of independent draws for each image, each a view",
    )


def outpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--positions",
        nargs="+",
        default=["all"],
        metavar="POSITION",
        help="places of the shrunken image on the canvas, each a view: all, or some of upper-left "
        "upper-center upper-right center-left center center-right lower-left lower-center "
        "lower-right",
    )


# ---------------------------------------------------------------- positions
class Place(NamedTuple):
    """Where a shrunken image lies on its canvas, in pixels."""

    name: str
    top: int
    left: int
    side: int


def positions(size):
    """The nine places of the dissertation's Figure 27, from the upper left to the lower right.

    A canvas of 256 px carries an image of 196 px at the offsets 0, 30 and 60; other sizes in
    proportion.
    """
    side = round(size * 196 / 256)
    offsets = [round(size * offset / 256) for offset in (0, 30, 60)]
    places = []
    for row, top in zip(("upper", "center", "lower"), offsets, strict=True):
        for column, left in zip(("left", "center", "right"), offsets, strict=True):
            name = "center" if row == column else f"{row}-{column}"
            places.append(Place(name, top, left, side))
    return places


def uncovered(size, patch, top, left, side):
    """bool (tokens,): True where a token's pixels are not wholly covered by the shrunken image."""
    edge = np.arange(size // patch) * patch
    rows = (edge >= top) & (edge + patch <= top + side)
    columns = (edge >= left) & (edge + patch <= left + side)
    return ~(rows[:, None] & columns[None, :]).ravel()


# ---------------------------------------------------------------- weights
def load_maskgit(where=None):
    """A tokenizer and, if there is one, the transformer that predicts its tokens.

    where: a run folder of 00_train_generator.py or the generator.pth of one, or a folder with the
    two published files. None takes the published files from the cache or from the net.
    Returns (tokenizer, transformer or None, {file name: sha256}). tokenizer.image_size is the side
    of its images in pixels.
    """
    if where and Path(where).is_file():
        return _load_trained(Path(where))
    if where and Path(where, "generator.pth").exists():
        return _load_trained(Path(where, "generator.pth"))
    return _load_published(where)


def _load_trained(path):
    from base.weights import load_strictly
    from models.maskgit import MaskGIT
    from models.vqgan import VQGAN

    saved = run.load(path)
    if not isinstance(saved, dict) or "tokenizer" not in saved:
        run.fail(f"{path} holds no tokenizer: give a run folder of 00_train_generator.py.")
    tokenizer = load_strictly(VQGAN(**saved["tokenizer_config"]), saved["tokenizer"], path)
    tokenizer.image_size = saved["size"]
    transformer = None
    if "transformer" in saved:
        transformer = MaskGIT(**saved["transformer_config"])
        load_strictly(transformer, saved["transformer"], path)
    return tokenizer, transformer, {path.name: run.file_hash(path)}


def _load_published(where):
    import torch

    from base.weights import load_strictly
    from models.maskgit import MaskGIT
    from models.published_maskgit import read_flax, tokenizer_from_flax, transformer_from_flax
    from models.vqgan import VQGAN

    files = _published_files(where)
    try:
        tokenizer_config, tokenizer_state = tokenizer_from_flax(read_flax(files[0]))
        codes = tokenizer_config["codes"]
        config, state = transformer_from_flax(read_flax(files[1]), codes)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        run.fail(
            f"{files[0].parent}: {error} is missing or of another shape: these are not MaskGIT's "
            "two checkpoints."
        )
    with torch.device("meta"):
        tokenizer = VQGAN(**tokenizer_config)
        transformer = MaskGIT(**config)
    tokenizer = load_strictly(tokenizer.to_empty(device="cpu"), tokenizer_state, files[0])
    transformer = load_strictly(transformer.to_empty(device="cpu"), state, files[1])
    tokenizer.image_size = round(config["tokens"] ** 0.5) * tokenizer.patch
    return tokenizer, transformer, {file.name: run.file_hash(file) for file in files}


def _published_files(where):
    """[the tokenizer's file, the transformer's]."""
    from base.weights import PUBLISHED, weight_file

    names = ["maskgit-tokenizer", "maskgit-transformer"]
    if not where:
        return [weight_file(name) for name in names]
    files = [Path(where, PUBLISHED[name].file) for name in names]
    if not all(file.exists() for file in files):
        run.fail(
            f"--weights {where} holds neither generator.pth (a finished run of "
            f"00_train_generator.py) nor the published files ({files[0].name}, {files[1].name})."
        )
    return files


@functools.cache
def _synsets():
    """{name of an ImageNet synset: its index}."""
    lines = Path(__file__).with_name("imagenet_synsets.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    return {name: index for index, name in enumerate(names)}


def synset_index(path):
    """Index among the 1,000 ImageNet synsets of the first folder in `path` that is one, or None."""
    for folder in path.split("/")[:-1]:
        if folder in _synsets():
            return _synsets()[folder]
    return None


# ---------------------------------------------------------------- painting
class Painter:
    """A MaskGIT on its device that predicts masked tokens of images.

    size: the side of its images in pixels. patch: the side of a token in pixels.
    """

    def __init__(self, args, device):
        import torch

        self.args = args
        self.device = device
        self.tokenizer, self.transformer, files = load_maskgit(args.weights)
        self.patch = self.tokenizer.patch
        self.size = self.tokenizer.image_size
        self.record = {"weights sha256": files}
        self.parameters = sum(p.numel() for p in self.tokenizer.parameters())
        if device.type == "cuda":
            self.tokenizer.to(memory_format=torch.channels_last)
        self.tokenizer.to(device)
        if self.transformer is not None:
            self.size = round(self.transformer.config["tokens"] ** 0.5) * self.patch
            self.parameters += sum(p.numel() for p in self.transformer.parameters())
            self.transformer.to(device)
            self.check_label()

    def check_label(self):
        classes = self.transformer.classes
        label = self.args.label
        if label is None:
            return
        if not classes:
            run.fail("--label: this model was trained without labels; leave it out.", 2)
        if label != "random" and not 0 <= label < classes:
            run.fail(f"--label {label}: this model knows the labels 0 to {classes - 1}.", 2)

    def labels(self, paths):
        """(B,) class indices as --label chooses them, or None for a model without labels."""
        import torch

        classes = self.transformer.classes
        if not classes:
            return None
        labels = []
        for path in paths:
            label = self.args.label
            if label is None:
                label = synset_index(path)
            elif label == "random":
                label = int(run.seed_rng(self.args.seed, path, "label").integers(classes))
            if label is None or label >= classes:
                run.fail(
                    f"{path}: this model needs a class, and the folder name is none of its "
                    f"{classes} ImageNet synsets (n01440764 ...): pass --label N, or use a "
                    "label-free model.",
                    2,
                )
            labels.append(label)
        return torch.tensor(labels, device=self.device)

    def paint(self, images, paths, masks, rngs):
        """Predict the tokens of images (B, S, S, 3) where masks (B, tokens) are True.

        Images are uint8, S is `size`. rngs: one numpy Generator for each image.
        """
        import torch

        from models import maskgit

        args = self.args
        with torch.inference_mode(), run.autocast(self.device, args.precision):
            tokens = self.tokenizer.encode(from_bytes(images, self.device))
            if masks.any():
                masks = torch.from_numpy(masks).to(self.device)
                tokens = maskgit.sample(
                    self.transformer,
                    tokens.masked_fill(masks, maskgit.MASK),
                    self.labels(paths),
                    rngs,
                    args.steps,
                    args.temperature,
                    args.top_k,
                    args.top_p,
                    args.softmax_temperature,
                )
            return to_bytes(self.tokenizer.decode(tokens))


def inpaint(args, device):
    """Mask tokens of an image, predict them (section 4.3; random masks: section 5.7)."""
    import torch

    painter = Painter(args, device)
    if painter.transformer is None and args.mask != "none":
        run.fail(
            f"--mask {args.mask} needs a transformer, and {args.weights} holds only a tokenizer: "
            "train one with 00_train_generator.py maskgit, or use --mask none.",
            2,
        )
    side = painter.size // painter.patch
    record = painter.record
    files = {}
    if args.mask.startswith("file:"):
        files = mask_files(args.mask.removeprefix("file:"), args.data)
        record["mask names"] = run.names_hash(map(str, files.values()))

    def draw(images, paths, mask, view):
        rngs = [run.seed_rng(args.seed, path, view) for path in paths]
        masks = []
        for path, rng in zip(paths, rngs, strict=True):
            masks.append(mask_of(mask, side, rng, files.get(path)))
        return painter.paint(images, paths, np.stack(masks), rngs)

    def generate(images, paths):
        views = [draw(images, paths, args.mask, view) for view in range(args.views)]
        return torch.stack(views)

    def sheet(images, paths):
        titles = ["none"]
        if painter.transformer is not None:
            titles = list(dict.fromkeys(["none", *SHEET_MASKS, args.mask]))
        columns = [images.numpy()]
        for mask in titles:
            columns.append(draw(images, paths, mask, 0).numpy())
        rows = list(zip(*columns, strict=True))
        return ["original", *titles], rows, ()

    views = [f"view{view}" for view in range(args.views)]
    read = functools.partial(read_square, size=painter.size)
    return Strategy(views, read, generate, painter.size, painter.parameters, record)


def outpaint(args, device):
    """Lay the shrunken image on a black canvas, predict what it does not cover (section 4.3)."""
    import torch

    painter = Painter(args, device)
    if painter.transformer is None:
        run.fail(
            f"{args.weights} holds only a tokenizer: train a transformer with "
            "00_train_generator.py maskgit.",
            2,
        )
    size = painter.size
    places = positions(size)
    names = [place.name for place in places]
    unknown = [name for name in args.positions if name not in ("all", *names)]
    if unknown:
        run.fail(f"--positions {' '.join(unknown)}: the positions are {' '.join(names)}.", 2)
    # A view keeps its position's number, so that some of the positions give the same files as all.
    numbers = list(range(len(places)))
    if "all" not in args.positions:
        numbers = [number for number in numbers if names[number] in args.positions]

    def on_canvas(images, place):
        canvas = torch.zeros(len(images), size, size, 3, dtype=torch.uint8)
        bottom = place.top + place.side
        right = place.left + place.side
        canvas[:, place.top : bottom, place.left : right] = images
        return canvas

    def draw(images, paths, number):
        place = places[number]
        mask = uncovered(size, painter.patch, place.top, place.left, place.side)
        masks = np.tile(mask, (len(paths), 1))
        rngs = [run.seed_rng(args.seed, path, number) for path in paths]
        return painter.paint(on_canvas(images, place), paths, masks, rngs)

    def generate(images, paths):
        return torch.stack([draw(images, paths, number) for number in numbers])

    def sheet(images, paths):
        """Figure 27: the canvases, below them what becomes of the chosen ones."""
        rows = []
        for i, path in enumerate(paths[:4]):
            image = images[i : i + 1]
            rows.append([on_canvas(image, place)[0].numpy() for place in places])
            rows.append([draw(image, [path], number)[0].numpy() for number in numbers])
        return names, rows, ()

    views = [f"view{number}" for number in numbers]
    read = functools.partial(read_square, size=places[0].side)
    positions_of_views = {f"view{number}": name for number, name in enumerate(names)}
    record = painter.record | {"positions": positions_of_views}
    return Strategy(views, read, generate, size, painter.parameters, record)
