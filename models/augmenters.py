"""The generative augmentation strategies (dissertation, chapter 4) in one signature, with their flags.

`STRATEGIES[name]` is (add_arguments(parser), strategy(args, device) -> Strategy).
"""

from typing import NamedTuple

from models.old_run import count, fail, share

STEPS = 12  # of MaskGIT's decoding (dissertation, section 4.3)


class Strategy(NamedTuple):
    """views: sub-folders, one a view; read(path) -> uint8 (S, S, 3), in the loader's workers;
    generate(images uint8 (B, S, S, 3) on the CPU, relative paths) -> uint8 (views, B, s, s, 3) on the CPU;
    size: s; about: dict for augment.json; sheet(images, paths) -> (column titles, rows of images, labels)
    for samples.png, None: the original beside its views."""

    views: list
    read: object
    generate: object
    size: int
    about: dict
    sheet: object = None


# ---------------------------------------------------------------- arguments
def mask(text):
    """argparse type of --mask."""
    if text in ("center", "none") or text.startswith("random:") and 0 <= share(text[7:]) <= 1:
        return text
    raise ValueError


def maskgit_arguments(p):
    p.add_argument(
        "--weights",
        help="run folder of 00_train_generator.py, or a folder with the two published MaskGIT "
        "files; without it those are looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
    )
    p.add_argument("--steps", type=count, default=STEPS, help="decoding iterations")
    p.add_argument("--temperature", type=float, default=4.5, help="of the noise on the confidences")
    p.add_argument(
        "--label",
        type=int,
        help="class index for a class-conditional model; without it the class is the "
        "image's folder name as an ImageNet synset (n01440764)",
    )


def inpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--mask",
        type=mask,
        default="center",
        help="what is predicted. center: all tokens but the outer "
        "ring; random:P: each with probability P; none: nothing, the tokenizer's reconstruction (a control)",
    )
    p.add_argument("--views", type=count, default=1, help="independent draws an image, each a view")


def outpaint_arguments(p):
    maskgit_arguments(p)
    p.add_argument(
        "--positions",
        nargs="+",
        default=["all"],
        metavar="POSITION",
        help="where the shrunken image lies: all, or some of upper-left upper-center upper-right "
        "center-left center center-right lower-left lower-center lower-right; each is a view",
    )


def noise_arguments(p):
    p.add_argument(
        "--weights",
        help="the published IC-GAN: its tarball, its folder or a G_ema_*.pth; without it "
        "looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
    )
    p.add_argument("--views", type=count, default=1, help="independent draws an image, each a view")
    p.add_argument(
        "--preprocess",
        default="demo",
        choices=["demo", "training"],
        help="how the encoder's input is resized: as in the official demo (bicubic with aligned corners) or "
        "as in its training features (without)",
    )
    p.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="draw z from a normal cut at +-2T (official demo: 0.7); without it from N(0, 1)",
    )
    p.add_argument(
        "--invert-steps",
        type=int,
        default=0,
        metavar="K",
        help="GAN inversion: optimise z for K steps towards the input (section 4.2)",
    )
    p.add_argument(
        "--feature-noise",
        type=float,
        metavar="STD",
        help="Gaussian noise on the feature map (Formula 5); z is then fixed for each image",
    )
    p.add_argument(
        "--feature-truncation",
        type=float,
        default=2.0,
        metavar="T",
        help="of that noise, in standard deviations",
    )
    p.add_argument(
        "--interpolate",
        type=float,
        metavar="W",
        help="move the feature map by W (0-1) towards that of another image, chosen by the image's seed",
    )
    p.add_argument(
        "--steer",
        metavar="DIRECTION.pt",
        help="steering vector of 00_train_augmenter.py (Formula 6)",
    )
    p.add_argument("--steer-strength", type=float, default=1.0, metavar="A")
    p.add_argument(
        "--navigator", metavar="FILE.pt", help="navigator of 00_train_augmenter.py (Formula 7)"
    )


def diffusion_arguments(p):
    from models.diffusion import diffusion_arguments as add  # imports nothing heavy

    add(p)


# ---------------------------------------------------------------- in- and out-painting
def synset_index(path):
    """Index among the 1,000 ImageNet synsets of the first folder in `path` that is named after one."""
    from pathlib import Path

    if not synset_index.table:
        lines = Path(__file__).with_name("imagenet_synsets.txt").read_text().split("\n")
        names = [line for line in lines if line and not line.startswith("#")]
        synset_index.table = {name: i for i, name in enumerate(names)}
    for folder in path.split("/")[:-1]:
        if folder in synset_index.table:
            return synset_index.table[folder]
    return None


synset_index.table = {}


def maskgit_model(args, device):
    """(tokenizer, transformer or None, labels_of(paths) -> (B,) or None, image size, about)."""
    import torch

    from models.weights import load_maskgit

    tokenizer, transformer, files = load_maskgit(args.weights)
    parameters = sum(
        p.numel() for m in (tokenizer, transformer) if m is not None for p in m.parameters()
    )
    if device.type == "cuda":
        tokenizer.to(memory_format=torch.channels_last)
    tokenizer.to(device)
    about = {"files": files, "parameters": parameters}
    if transformer is None:
        return tokenizer, None, None, tokenizer.image_size, about
    transformer.to(device)
    size = round(transformer.config["tokens"] ** 0.5) * tokenizer.patch
    classes = transformer.classes
    if not classes and args.label is not None:
        fail("--label: this model was trained without labels; leave it out.", 2)
    if args.label is not None and not 0 <= args.label < classes:
        fail(f"--label {args.label}: this model knows the labels 0 to {classes - 1}.", 2)

    def labels_of(paths):
        if not classes:
            return None
        labels = [args.label if args.label is not None else synset_index(path) for path in paths]
        for path, label in zip(paths, labels, strict=True):
            if label is None or label >= classes:
                fail(
                    f"{path}: this model needs a class, and the folder name is none of its {classes} ImageNet synsets "
                    "(n01440764 ...): pass --label N, or use a label-free model.",
                    2,
                )
        return torch.tensor(labels, device=device)

    return tokenizer, transformer, labels_of, size, about


def from_bytes(images, device):
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1] on the device."""
    # contiguous: on a CPU torch's group norm loses digits in the channels-last layout that a permute leaves
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous().float() / 255


def to_bytes(images):
    """float (B, 3, S, S) in [0, 1] -> uint8 (B, S, S, 3) on the CPU."""
    return (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu()


def inpaint(args, device):
    """Mask tokens of the image, predict them, decode (section 4.3; random masks: section 5.7)."""
    import numpy as np
    import torch

    from models import maskgit
    from models.images import read_image, square
    from models.old_run import autocast, seed_rng

    tokenizer, transformer, labels_of, size, about = maskgit_model(args, device)
    if transformer is None and args.mask != "none":
        fail(
            f"--mask {args.mask} needs a transformer, and {args.weights} holds only a tokenizer: train one with "
            "00_train_generator.py maskgit, or use --mask none.",
            2,
        )

    @torch.inference_mode()
    def draw(images, paths, kind, view):
        with autocast(device, args.precision):
            tokens = tokenizer.encode(from_bytes(images, device))
            if kind != "none":
                side = round(tokens.shape[1] ** 0.5)
                rngs = [seed_rng(args.seed, path, view) for path in paths]
                masks = torch.from_numpy(
                    np.stack([maskgit.mask_of(kind, side, rng) for rng in rngs])
                )
                tokens = tokens.masked_fill(masks.to(device), maskgit.MASK)
                tokens = maskgit.sample(
                    transformer, tokens, labels_of(paths), rngs, args.steps, args.temperature
                )
            return to_bytes(tokenizer.decode(tokens))

    def sheet(images, paths):
        kinds = ["none"] + (
            ["center", "random:0.25", "random:0.5", "random:0.75"]
            if transformer is not None
            else []
        )
        columns = [images, *(draw(images, paths, kind, 0) for kind in kinds)]
        return (
            ["original", *kinds],
            [list(row) for row in zip(*(c.numpy() for c in columns), strict=True)],
            (),
        )

    return Strategy(
        [f"view{v}" for v in range(args.views)],
        lambda path: square(read_image(path), size),
        lambda images, paths: torch.stack(
            [draw(images, paths, args.mask, v) for v in range(args.views)]
        ),
        size,
        about,
        sheet,
    )


def outpaint(args, device):
    """Lay the shrunken image on a black canvas, predict every token it does not wholly cover (section 4.3)."""
    import torch

    from models import maskgit
    from models.images import read_image, square
    from models.old_run import autocast, seed_rng

    tokenizer, transformer, labels_of, size, about = maskgit_model(args, device)
    if transformer is None:
        fail(
            f"{args.weights} holds only a tokenizer: train a transformer with 00_train_generator.py maskgit.",
            2,
        )
    places = maskgit.positions(size)
    names = [place[0] for place in places]
    if args.positions != ["all"]:
        if unknown := [name for name in args.positions if name not in names]:
            fail(f"--positions {' '.join(unknown)}: the positions are {' '.join(names)}.", 2)
        places = [places[names.index(name)] for name in args.positions]
    numbers = [names.index(place[0]) for place in places]

    def canvas(images, top, left, side):
        on_black = torch.zeros(len(images), size, size, 3, dtype=torch.uint8)
        on_black[:, top : top + side, left : left + side] = images
        return on_black

    @torch.inference_mode()
    def draw(images, paths, number):
        _, top, left, side = maskgit.positions(size)[number]
        with autocast(device, args.precision):
            tokens = tokenizer.encode(from_bytes(canvas(images, top, left, side), device))
            mask = torch.from_numpy(maskgit.uncovered(size, tokenizer.patch, top, left, side)).to(
                device
            )
            tokens = tokens.masked_fill(mask, maskgit.MASK)
            rngs = [seed_rng(args.seed, path, number) for path in paths]
            tokens = maskgit.sample(
                transformer, tokens, labels_of(paths), rngs, args.steps, args.temperature
            )
            return to_bytes(tokenizer.decode(tokens))

    def sheet(images, paths):  # Figure 27: the canvases above, the generated views below
        rows = []
        for i, path in enumerate(paths[:4]):
            one = images[i : i + 1]
            rows += [
                [canvas(one, *place[1:])[0].numpy() for place in places],
                [draw(one, [path], number)[0].numpy() for number in numbers],
            ]
        return [place[0] for place in places], rows, ()

    # a view keeps its position's number, so that a subset of the positions gives the same files
    return Strategy(
        [f"view{number}" for number in numbers],
        lambda path: square(read_image(path), places[0][3]),
        lambda images, paths: torch.stack([draw(images, paths, number) for number in numbers]),
        size,
        {**about, "positions": {f"view{n}": names[n] for n in numbers}},
        sheet,
    )


# ---------------------------------------------------------------- noise
def noise(args, device):
    """Encode, draw a new noise vector (or augment the feature map), generate (section 4.2)."""
    from models import icgan

    return icgan.noise(args, device)


# ---------------------------------------------------------------- diffusion
def diffusion(args, device):
    """Noise to strength alpha, denoise with the caption (section 4.4)."""
    from models import diffusion as img2img

    return img2img.diffusion(args, device)


STRATEGIES = {
    "inpaint": (inpaint_arguments, inpaint),
    "outpaint": (outpaint_arguments, outpaint),
    "noise": (noise_arguments, noise),
    "diffusion": (diffusion_arguments, diffusion),
}
