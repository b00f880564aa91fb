"""Train one of two small augmenters of IC-GAN's feature map; the generator stays as it is.

    python extras/train_augmenter.py steer --edit zoom --data ROOT/train --out runs/zoom
    python extras/train_augmenter.py navigator --data ROOT/train --out runs/navigator
    python 02_augment.py noise --data ROOT/train --out gen/zoom --steer runs/zoom/direction.pt

`steer` (Formula 6, GenRep) learns one direction w of the feature map f. Along it the generated
image is to change as under a hand-crafted edit: G(z, f + a w) is to equal edit(G(z, f), a) for a
from -1 to 1, in the squared distance. `navigator` (Formula 7, COP-GEN) learns one layer that moves
a feature map, so that the two generated images are as hard a positive pair as possible: a small
ResNet minimises SimCLR's loss, the navigator maximises it. How far it may move is bounded by the
norm of the Gaussian noise that --feature-noise stands for.

Reads any folder tree of images and computes their feature maps once. Writes a run folder:
direction.pt or navigator.pt (for 02_augment.py noise --steer or --navigator), samples.png,
log.jsonl and result.json, with the comparison on held-out images. The same command continues a run
that was interrupted. It runs on one device: a step costs 0.3 TFLOP an image at 256 px, and the
defaults cost 4.5 PFLOP (steer) and 18 PFLOP (navigator).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from base import run, run_folder

STAGE = "train_augmenter"
LOG_EVERY = 100  # steps
SHOWN = 6  # rows in samples.png


def arguments(argv=None):
    p = run.parser(__doc__)
    commands = p.add_subparsers(dest="augmenter", required=True, metavar="steer | navigator")
    steering = run.subparser(
        commands, "steer", "A direction of the feature map for one hand-crafted edit."
    )
    navigator = run.subparser(
        commands, "navigator", "A layer that makes the hardest positive pairs."
    )
    for command in (steering, navigator):
        common_arguments(command)
    steering.set_defaults(steps=1000, batch_size=16)
    steering.add_argument(
        "--edit",
        required=True,
        choices=["brightness", "shift", "zoom"],
        help="the hand-crafted edit to imitate",
    )
    steering.add_argument(
        "--edit-strength",
        type=run.number,
        default=0.25,
        metavar="A",
        help="size of the edit at --steer-strength 1: the share of the pixel range that "
        "brightness adds, the share of the width that shift moves right, or the logarithm of "
        "zoom's magnification",
    )
    navigator.set_defaults(steps=2000, batch_size=32)
    navigator.add_argument(
        "--feature-noise",
        type=run.from_zero,
        default=0.01,
        metavar="STD",
        help="standard deviation of the Gaussian noise whose norm bounds the navigator's step",
    )
    navigator.add_argument(
        "--feature-truncation",
        type=run.above_zero,
        default=2.0,
        metavar="T",
        help="where that noise is cut, in standard deviations",
    )
    navigator.add_argument(
        "--backbone", default="resnet18", help="the SimCLR model's network, a ResNet"
    )
    navigator.add_argument(
        "--temperature", type=run.above_zero, default=0.1, help="temperature of SimCLR's loss"
    )
    return p.parse_args(argv)


def common_arguments(p):
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument(
        "--weights",
        metavar="PATH",
        help="the published IC-GAN: its tarball, its folder or a G_ema_*.pth; without this flag it "
        "is looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
    )
    p.add_argument("--out", required=True, help="run folder")
    p.add_argument(
        "--images",
        type=run.positive,
        default=10000,
        metavar="N",
        help="images to use; a tenth of them is held out",
    )
    p.add_argument("--steps", type=run.positive, metavar="N", help="training steps")
    p.add_argument("--batch-size", type=run.positive, metavar="N", help="images in a step")
    p.add_argument("--learning-rate", type=run.from_zero, default=1e-3, help="Adam's learning rate")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random")
    run_folder.checkpoint_argument(p)
    run.device_arguments(p, workers=4)


if __name__ == "__main__":
    args = arguments()

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

from augment import feature_map
from base import parallel, training
from base.training import Meter
from images.files import contact_sheet, find_images, read_ahead
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


def to_pixels(images):
    """float (B, 3, H, W) in [-1, 1] -> list of uint8 (H, W, 3)."""
    levels = ((images.float() + 1) * 127.5).round().byte()
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


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
    squares = [feature_map.demo_square(files.read_or_next(index)[0]) for index in indices]
    return torch.from_numpy(np.stack(squares))


def encode(args, device, encoder, paths):
    """Feature maps (N, D) of the images, on the device; the next readable image stands in."""
    files = listed(paths, args, "data", args.data)
    batches = [range(first, min(first + 64, len(files))) for first in range(0, len(files), 64)]
    read = functools.partial(read_squares, files)
    features = []
    bar = run.progress(len(files), "encoding")
    loader = read_ahead(batches, read, args.workers, device)
    for squares in loader:
        with torch.no_grad(), run.autocast(device, args.precision):
            inputs = feature_map.encoder_input(squares.to(device, non_blocking=True))
            features.append(feature_map.encode(encoder, inputs).float())
        bar.update(len(squares))
    bar.close()
    return torch.cat(features)


def train(args, device, out, features, modules, optimizers, loss_of):
    """Steps of all optimizers on loss_of(feature maps, numpy generators) of a batch."""
    first = 0
    meter = Meter()
    if checkpoint := run_folder.load_checkpoint(out):
        states = checkpoint["states"]
        for module, optimizer, (weights, state) in zip(modules, optimizers, states, strict=True):
            module.load_state_dict(weights)
            optimizer.load_state_dict(state)
        meter = Meter(checkpoint["meter"], device)
        first = checkpoint["step"]
    bar = run.progress(args.steps, args.augmenter, first)
    clock = training.Clock(args.checkpoint_minutes)
    batches = run.batches(len(features), args.batch_size, args.seed, first, args.steps)
    for step, batch in enumerate(batches, first):
        rngs = [run.seed_rng(args.seed, "step", step, i) for i in range(len(batch))]
        rows = [index for _, index in batch]
        with run.autocast(device, args.precision):
            loss = loss_of(features[rows], rngs)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        meter.add(step, {"loss": loss})
        bar.update()
        done = step + 1
        if done % LOG_EVERY == 0 or done == args.steps:
            loss = meter.read()["loss"]
            run_folder.log(out, event="steps", step=done, loss=loss)
            bar.set_postfix(loss=f"{loss:.4f}")
        if clock.due(step, args.steps) and meter.finite():
            states = []
            for module, optimizer in zip(modules, optimizers, strict=True):
                states.append((module.state_dict(), optimizer.state_dict()))
            run_folder.save_checkpoint(out, step=done, states=states, meter=meter.state)
    bar.close()


def means(lists):
    """{name: mean of the values} of {name: values}."""
    return {name: sum(values) / len(values) for name, values in lists.items()}


# ---------------------------------------------------------------- steer
def train_steer(args, device, out, generator, features, held):
    """Learn the direction. Returns what result.json holds of it, on the held-out feature maps."""
    direction = torch.nn.Parameter(torch.zeros(generator.feature_width, device=device))
    steering = torch.nn.ParameterDict({"direction": direction})

    def loss_of(feature, rngs):
        z = feature_map.noise_vectors(rngs, generator.z_width).to(device)
        amounts = [rng.uniform(-1, 1) for rng in rngs]
        strength = torch.tensor(amounts, dtype=torch.float32, device=device)
        with torch.no_grad():
            plain = generator(z, feature).float()
            target, mask = edit(args.edit, plain, args.edit_strength * strength)
        steered = generator(z, feature_map.steer(feature, direction, strength[:, None]))
        return distance(steered.float(), target, mask).mean()

    adam = torch.optim.Adam(steering.parameters(), args.learning_rate)
    train(args, device, out, features, [steering], [adam], loss_of)
    run.save(out / "direction.pt", {"direction": direction.detach().cpu()})
    with torch.no_grad(), run.autocast(device, args.precision):
        errors, rows = compare_steered(args, device, generator, held, direction)
    titles = ["edit -1", "steered -1", "G(z, f)", "steered +1", "edit +1"]
    contact_sheet(out / "samples.png", rows, titles)
    return {"results": {"edit_error": means(errors)}}


def compare_steered(args, device, generator, held, direction):
    """({"steered", "unsteered": errors against the edit}, rows of images), on held-out images."""
    errors = {"steered": [], "unsteered": []}
    rows = []
    for i, feature in enumerate(held.split(1)):
        rng = run.seed_rng(args.seed, "held out", i)
        z = feature_map.noise_vectors([rng], generator.z_width).to(device)
        plain = generator(z, feature).float()
        shown = {}
        for sign in (-1.0, 1.0):
            amount = torch.full((1,), sign * args.edit_strength, device=device)
            target, mask = edit(args.edit, plain, amount)
            steered = generator(z, feature_map.steer(feature, direction, sign)).float()
            errors["steered"].append(float(distance(steered, target, mask)))
            errors["unsteered"].append(float(distance(plain, target, mask)))
            shown[sign] = (target, steered)
        if len(rows) < SHOWN:
            row = [*shown[-1.0], plain, *reversed(shown[1.0])]
            rows.append(to_pixels(torch.cat(row)))
    return errors, rows


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


def contrast(simclr, temperature, plain, moved, rngs):
    """SimCLR's loss of the pairs of two batches; each image gets a crop of its own."""
    first = crop(plain.float(), rngs)
    second = crop(moved.float(), rngs)
    projections = simclr(torch.cat([first, second])).float()
    loss, _ = simclr_loss(*projections.chunk(2), temperature=temperature)
    return loss


def train_navigator(args, device, out, generator, features, held):
    """Learn the navigator. Returns what result.json holds of it, on the held-out feature maps."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    width = generator.feature_width
    bound = feature_map.noise_norm(args.feature_noise, args.feature_truncation, width)
    navigator = feature_map.Navigator(width, bound).to(device)
    small_images = generator.resolution <= 64
    backbone, backbone_width = build_backbone(args.backbone, small_images=small_images)
    head = mlp(backbone_width, backbone_width, 128)
    simclr = torch.nn.Sequential(backbone, head).to(device)

    def loss_of(feature, rngs):
        z = feature_map.noise_vectors(rngs, generator.z_width).to(device)
        with torch.no_grad():
            plain = generator(z, feature)
        moved = generator(z, navigator(feature))
        return contrast(simclr, args.temperature, plain, moved, rngs)

    minimising = torch.optim.Adam(simclr.parameters(), args.learning_rate)
    maximising = torch.optim.Adam(navigator.parameters(), args.learning_rate, maximize=True)
    train(args, device, out, features, [simclr, navigator], [minimising, maximising], loss_of)
    weights = {name: tensor.cpu() for name, tensor in navigator.state_dict().items()}
    run.save(out / "navigator.pt", weights)
    simclr.eval()
    with torch.no_grad(), run.autocast(device, args.precision):
        losses, rows = compare_navigated(args, device, generator, held, navigator, simclr)
    contact_sheet(out / "samples.png", rows, ["G(z, f)", "noise", "navigator"])
    return {"results": {"contrastive_loss": means(losses)}, "bound": bound}


def held_out_rngs(seed, what, batch, n):
    """A numpy Generator for each of the n images of a held-out batch."""
    return [run.seed_rng(seed, "held out", what, batch, i) for i in range(n)]


def compare_navigated(args, device, generator, held, navigator, simclr):
    """({"navigator", "noise", "unchanged": losses}, rows of images), on held-out images."""
    losses = {"navigator": [], "noise": [], "unchanged": []}
    rows = []
    for number, feature in enumerate(held.split(args.batch_size)):
        draws = held_out_rngs(args.seed, "z", number, len(feature))
        z = feature_map.noise_vectors(draws, generator.z_width).to(device)
        noisy = feature_map.feature_noise(
            feature, args.feature_noise, args.feature_truncation, draws
        )
        images = {
            "unchanged": generator(z, feature),
            "noise": generator(z, noisy),
            "navigator": generator(z, navigator(feature)),
        }
        if len(feature) > 1:  # an image alone is contrasted with nothing
            for name in losses:
                crops = held_out_rngs(args.seed, "crop", number, len(feature))
                pair = (images["unchanged"], images[name])
                loss = contrast(simclr, args.temperature, *pair, crops)
                losses[name].append(float(loss))
        columns = [to_pixels(made) for made in images.values()]
        for row in zip(*columns, strict=True):
            if len(rows) < SHOWN:
                rows.append(row)
    return losses, rows


# ---------------------------------------------------------------- main
def main(args, device):
    stage = f"{STAGE} {args.augmenter}"
    if parallel.world() > 1:
        run.fail(
            "train_augmenter.py trains on one device: start it with python, not with torchrun.", 2
        )
    if args.augmenter == "navigator" and args.batch_size < 2:
        run.fail(
            "--batch-size must be at least 2: an image is contrasted with the others of its batch.",
            2,
        )
    run.keep_apart(args.data, out=args.out)
    paths = choose_images(args)
    held = held_out(len(paths))
    run.check_batch(len(paths) - held, args.batch_size)
    generator, encoder, weights = feature_map.load_icgan(args.weights)
    inputs = {"images": len(paths), "image names": run.names_hash(paths), "weights": weights}
    out = run_folder.open_run(args, stage, "result.json", inputs=inputs)
    if out is None:
        return
    generator.to(device)
    features = encode(args, device, encoder.to(device), paths)
    train_one = train_steer if args.augmenter == "steer" else train_navigator
    found = train_one(args, device, out, generator, features[held:], features[:held])
    result = {"stage": stage, "args": vars(args), "held_out": held, "weights": weights, **found}
    run.write_json(out / "result.json", result)
    run_folder.close_run(out)
    print(result["results"])


if __name__ == "__main__":
    run.launch(main, args)
