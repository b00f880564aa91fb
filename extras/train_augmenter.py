"""Train one of two small augmenters of IC-GAN's feature map; the generator stays as it is.

    python extras/train_augmenter.py steer --edit zoom --data ROOT/train --out runs/zoom
    python extras/train_augmenter.py navigator --data ROOT/train --out runs/navigator
    python extras/feature_noise.py feature-noise --data ROOT/train --out gen/zoom \\
        --steer runs/zoom/direction.pt

`steer` (Formula 6, GenRep) learns one direction w of the feature map f. Along it the generated
image is to change as under a hand-crafted edit: G(z, f + a w) is to equal edit(G(z, f), a) for a
from -1 to 1, in the squared distance. At 1, brightness adds a quarter of the pixel range, shift
moves right by a quarter of the width, and zoom magnifies by exp(1/4). `navigator` (Formula 7,
COP-GEN) learns one layer that moves a feature map, so that the two generated images are as hard a
positive pair as possible: a ResNet-18 minimises SimCLR's loss, the navigator maximises it. How far
it may move is bounded by the norm of the Gaussian noise that --feature-noise stands for.

Reads any folder tree of images and computes their feature maps once. Writes a run folder:
direction.pt or navigator.pt, samples.png, log.jsonl and result.json, with the comparison on
held-out images. The same command continues a run that was interrupted. It runs on one device: a
step costs 0.3 TFLOP an image at 256 px, and the defaults cost 4.5 PFLOP (steer) and 18 PFLOP
(navigator).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from augment import noise
from base import cli, run, run_folder

LOG_EVERY = 100  # steps
SHOWN = 6  # rows in samples.png
EDIT_STRENGTH = 0.25  # of an edit at 1
TEMPERATURE = 0.1  # of SimCLR's loss


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="augmenter", required=True, metavar="steer | navigator")
    steering = cli.subparser(
        commands, "steer", "A direction of the feature map for one hand-crafted edit."
    )
    steering.set_defaults(steps=1000, batch_size=16)
    steering.add_argument(
        "--edit",
        required=True,
        choices=["brightness", "shift", "zoom"],
        help="the hand-crafted edit to imitate",
    )
    navigator = cli.subparser(
        commands, "navigator", "A layer that makes the hardest positive pairs."
    )
    navigator.set_defaults(steps=2000, batch_size=32)
    navigator.add_argument(
        "--feature-noise",
        type=cli.from_zero,
        default=0.01,
        metavar="STD",
        help="standard deviation of the Gaussian noise whose norm bounds the navigator's step",
    )
    for c in (steering, navigator):
        c.add_argument("--data", required=True, help="folder tree of images")
        noise.weights_argument(c)
        c.add_argument("--out", required=True, help="run folder")
        c.add_argument(
            "--images",
            type=cli.positive,
            default=10000,
            metavar="N",
            help="images to use; a tenth of them is held out",
        )
        c.add_argument("--steps", type=cli.positive, metavar="N", help="training steps")
        c.add_argument("--batch-size", type=cli.positive, metavar="N", help="images in a step")
        c.add_argument(
            "--learning-rate", type=cli.from_zero, default=1e-3, help="Adam's learning rate"
        )
        c.add_argument("--seed", type=int, default=0, help="seed of everything random")
        run_folder.checkpoint_argument(c)
        cli.device_arguments(c, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools
import math

import feature_noise
import numpy as np
import torch
import torch.nn.functional as F

from base import parallel, training
from images.files import find_images, read_ahead
from images.pictures import contact_sheet
from images.unreadable import listed
from models.method import mlp
from models.resnet import build_backbone
from models.simclr import simclr_loss


# ---------------------------------------------------------------- edits
def affine(images, zoom, x=0.0, y=0.0):
    """Magnify (B, 3, H, W) by `zoom` (B,) about the point (x, y) in [-1, 1], the new centre.

    Returns (images, mask (B, 3, H, W)). The mask is set where the result stems from inside the
    image.
    """
    zero = torch.zeros_like(zoom)
    matrix = torch.stack([1 / zoom, zero, zero + x, zero, 1 / zoom, zero + y], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    inside = (grid.abs() <= 1).all(-1).unsqueeze(1)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved, inside.expand_as(images)


def edit(kind, images, amount):
    """The hand-crafted edit of images in [-1, 1] by `amount` (B,).

    Returns (target, mask of the pixels that the edit defines).
    """
    if kind == "brightness":
        brighter = images + 2 * amount[:, None, None, None]
        return brighter.clamp(-1, 1), torch.ones_like(images)
    if kind == "shift":
        return affine(images, torch.ones_like(amount), x=-2 * amount)
    return affine(images, amount.exp())


def distance(images, target, mask):
    """Mean squared difference of each image where the mask is set, (B,)."""
    squares = (images - target).square() * mask
    return squares.sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)


def draw_sheet(out, columns):
    """samples.png of {title: images (B, 3, H, W) in [-1, 1]}: the first of them, each a row."""
    pixels = []
    for images in columns.values():
        levels = ((images[:SHOWN].float() + 1) * 127.5).round().byte()
        pixels.append(levels.permute(0, 2, 3, 1).cpu().numpy())
    contact_sheet(out / "samples.png", list(zip(*pixels, strict=True)), list(columns))


# ---------------------------------------------------------------- training
def choose_images(args):
    """The paths of the images to use, in a random order."""
    paths = find_images(args.data)
    order = run.seed_rng(args.seed, "images").permutation(len(paths))[: args.images]
    return [paths[i] for i in order]


def held_out(n):
    """How many of n images are held out."""
    return max(2, n // 10)


def read_squares(files, indices):
    """Images of an ImageList -> uint8 (B, 256, 256, 3), as the encoder of IC-GAN's demo wants."""
    squares = [noise.demo_square(files.read_or_next(index)[0]) for index in indices]
    return torch.from_numpy(np.stack(squares))


def encode(args, device, encoder, paths):
    """Feature maps (N, D) of the images, on the device; the next readable image stands in."""
    files = listed(paths, args, "data", args.data)
    batches = [range(first, min(first + 64, len(files))) for first in range(0, len(files), 64)]
    read = functools.partial(read_squares, files)
    features = []
    bar = run.progress(len(files), "encoding")
    for squares in read_ahead(batches, read, args.workers, device):
        with torch.no_grad(), run.autocast(device, args.precision):
            features.append(noise.encode(encoder, squares.to(device, non_blocking=True)))
        bar.update(len(squares))
    bar.close()
    return torch.cat(features)


def train(args, device, out, features, loss_of, **parts):
    """Steps of all optimizers among the parts on loss_of(feature maps, numpy generators).

    parts: what a checkpoint holds; see `training.Resumable`.
    """
    optimizers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
    state = training.Resumable(out, args.checkpoint_minutes, device, **parts)
    bar = run.progress(args.steps, args.augmenter, state.step)
    batches = run.batches(len(features), args.batch_size, args.seed, state.step, args.steps)
    for step, batch in enumerate(batches, state.step):
        rngs = generators(args.seed, "step", step, len(batch))
        with run.autocast(device, args.precision):
            loss = loss_of(features[[index for _, index in batch]], rngs)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        state.meter.add(step, {"loss": loss})
        bar.update()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == args.steps:
            run_folder.log(out, event="steps", step=step + 1, **state.meter.read())
        state.save_if_due(step, args.steps)
    bar.close()


def generators(seed, what, batch, n):
    """A numpy Generator for each of the n images of a batch."""
    return [run.seed_rng(seed, what, batch, i) for i in range(n)]


def means(lists):
    """{name: mean of the values} of {name: values}."""
    return {name: sum(values) / len(values) for name, values in lists.items()}


# ---------------------------------------------------------------- steer
def train_steer(args, device, out, generator, features, held):
    """Learn the direction. Returns what result.json holds of it, on the held-out feature maps."""
    direction = torch.zeros(generator.feature_width, device=device, requires_grad=True)

    def loss_of(feature, rngs):
        z = noise.noise_vectors(rngs, generator.z_width).to(device)
        amounts = [rng.uniform(-1, 1) for rng in rngs]
        strength = torch.tensor(amounts, dtype=torch.float32, device=device)
        with torch.no_grad():
            plain = generator(z, feature).float()
            target, mask = edit(args.edit, plain, EDIT_STRENGTH * strength)
        steered = generator(z, feature_noise.steer(feature, direction, strength[:, None]))
        return distance(steered.float(), target, mask).mean()

    adam = torch.optim.Adam([direction], args.learning_rate)
    direction_itself = direction.detach()
    train(args, device, out, features, loss_of, direction=direction_itself, adam=adam)
    run.save(out / "direction.pt", {"direction": direction_itself.cpu()})

    errors = {"steered": [], "unsteered": []}
    for number, feature in enumerate(held.split(args.batch_size)):
        rngs = generators(args.seed, "held out", number, len(feature))
        z = noise.noise_vectors(rngs, generator.z_width).to(device)
        with torch.no_grad(), run.autocast(device, args.precision):
            plain = generator(z, feature).float()
            columns = {"G(z, f)": plain}
            for sign in (-1.0, 1.0):
                amount = torch.full((len(feature),), sign * EDIT_STRENGTH, device=device)
                target, mask = edit(args.edit, plain, amount)
                steered = generator(z, feature_noise.steer(feature, direction, sign)).float()
                errors["steered"] += distance(steered, target, mask).tolist()
                errors["unsteered"] += distance(plain, target, mask).tolist()
                columns |= {f"edit {sign:+g}": target, f"steered {sign:+g}": steered}
        if number == 0:
            draw_sheet(out, columns)
    return {"edit_error": means(errors)}


# ---------------------------------------------------------------- navigator
def crop(images, rngs):
    """The augmentation that matters most in SimCLR: a square crop of a quarter or more."""
    drawn = []
    for rng in rngs:
        side = math.sqrt(rng.uniform(0.25, 1))
        drawn.append((side, *rng.uniform(-1, 1, 2)))
    side, x, y = torch.tensor(drawn, dtype=torch.float32, device=images.device).T
    cropped, _ = affine(images, 1 / side, x * (1 - side), y * (1 - side))
    return cropped


def contrast(simclr, plain, moved, rngs):
    """SimCLR's loss of the pairs of two batches; each image gets a crop of its own."""
    first = crop(plain.float(), rngs)
    second = crop(moved.float(), rngs)
    projections = simclr(torch.cat([first, second])).float()
    loss, _ = simclr_loss(*projections.chunk(2), temperature=TEMPERATURE)
    return loss


def train_navigator(args, device, out, generator, features, held):
    """Learn the navigator. Returns what result.json holds of it, on the held-out feature maps."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    width = generator.feature_width
    bound = feature_noise.noise_norm(args.feature_noise, width)
    navigator = feature_noise.Navigator(width, bound).to(device)
    backbone, backbone_width = build_backbone("resnet18", small_images=generator.resolution <= 64)
    head = mlp(backbone_width, backbone_width, 128)
    simclr = torch.nn.Sequential(backbone, head).to(device)

    def loss_of(feature, rngs):
        z = noise.noise_vectors(rngs, generator.z_width).to(device)
        with torch.no_grad():
            plain = generator(z, feature)
        moved = generator(z, navigator(feature))
        return contrast(simclr, plain, moved, rngs)

    parts = {
        "simclr": simclr,
        "navigator": navigator,
        "minimising": torch.optim.Adam(simclr.parameters(), args.learning_rate),
        "maximising": torch.optim.Adam(navigator.parameters(), args.learning_rate, maximize=True),
    }
    train(args, device, out, features, loss_of, **parts)
    weights = {name: tensor.cpu() for name, tensor in navigator.state_dict().items()}
    run.save(out / "navigator.pt", weights)

    simclr.eval()
    losses = {"unchanged": [], "noise": [], "navigator": []}
    for number, feature in enumerate(held.split(args.batch_size)):
        rngs = generators(args.seed, "held out", number, len(feature))
        z = noise.noise_vectors(rngs, generator.z_width).to(device)
        noisy = feature_noise.add_noise(feature, args.feature_noise, rngs)
        with torch.no_grad(), run.autocast(device, args.precision):
            changed = {"unchanged": feature, "noise": noisy, "navigator": navigator(feature)}
            columns = {name: generator(z, moved) for name, moved in changed.items()}
            for name, images in columns.items():
                if len(feature) > 1:  # an image alone is contrasted with nothing
                    crops = generators(args.seed, "crop", number, len(feature))
                    losses[name].append(
                        float(contrast(simclr, columns["unchanged"], images, crops))
                    )
        if number == 0:
            draw_sheet(out, columns)
    return {"contrastive_loss": means(losses)}


# ---------------------------------------------------------------- main
def main(args, device):
    stage = f"train_augmenter {args.augmenter}"
    if parallel.world() > 1:
        run.fail(
            "train_augmenter.py trains on one device: start it with python, not with torchrun.", 2
        )
    run.keep_apart(args.data, out=args.out)
    paths = choose_images(args)
    held = held_out(len(paths))
    run.check_batch(len(paths) - held, args.batch_size, least=2)
    generator, encoder, weights = noise.load_icgan(args.weights, device)
    inputs = {"images": len(paths), "list of images": run.names_hash(paths), "weights": weights}
    out = run_folder.open_run(args, stage, "result.json", inputs=inputs)
    if out is None:
        return
    features = encode(args, device, encoder, paths)
    train_one = train_steer if args.augmenter == "steer" else train_navigator
    results = train_one(args, device, out, generator, features[held:], features[:held])
    result = {"stage": stage, "args": vars(args), "held_out": held, "weights": weights}
    run.write_json(out / "result.json", result | {"results": results})
    run_folder.close_run(out)
    print(results)


if __name__ == "__main__":
    run.launch(main, args)
