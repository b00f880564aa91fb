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

Reads any folder tree of images and computes their feature maps once. Writes a run folder with
log.jsonl and, at the end, direction.pt or navigator.pt. The same command continues a run that was
interrupted. It runs on one device: a step costs 0.3 TFLOP an image at 256 px, and the defaults cost
4.5 PFLOP (steer) and 18 PFLOP (navigator).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from augment import noise
from base import cli, run, run_folder

LOG_EVERY = 100  # steps
EDIT_STRENGTH = 0.25  # of an edit at 1
TEMPERATURE = 0.1  # of SimCLR's loss
RESULTS = {"steer": "direction.pt", "navigator": "navigator.pt"}


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="augmenter", required=True, metavar="steer | navigator")
    steering = cli.subparser(
        commands, "steer", "A direction of the feature map for one hand-crafted edit."
    )
    steering.add_argument(
        "--edit",
        required=True,
        choices=["brightness", "shift", "zoom"],
        help="the hand-crafted edit to imitate",
    )
    navigator = cli.subparser(
        commands, "navigator", "A layer that makes the hardest positive pairs."
    )
    navigator.add_argument(
        "--feature-noise",
        type=cli.from_zero,
        default=0.01,
        help="standard deviation of the Gaussian noise whose norm bounds the navigator's step",
    )
    for c, steps, batch_size in ((steering, 1000, 16), (navigator, 2000, 32)):
        c.add_argument("--data", required=True, help="folder tree of images")
        noise.weights_argument(c)
        c.add_argument("--out", required=True, help="run folder")
        cli.numbers(
            c,
            images=(cli.positive, 10000, "images to use, chosen at random"),
            steps=(cli.positive, steps, "training steps"),
            batch_size=(cli.positive, batch_size, "images in a step"),
            learning_rate=(cli.from_zero, 1e-3, "Adam's learning rate"),
            seed=(int, 0, "seed of everything random"),
        )
        run_folder.checkpoint_argument(c)
        cli.device_arguments(c, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import math

import feature_noise
import torch
import torch.nn.functional as F

from augment import generator_training
from base import parallel, training
from evaluate.features import read_batches
from images.files import find_images
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
    matrix = torch.zeros(len(zoom), 2, 3, device=zoom.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / zoom
    matrix[:, 0, 2] = x
    matrix[:, 1, 2] = y
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
    total = squares.flatten(1).sum(1)
    defined = mask.flatten(1).sum(1)
    return total / defined.clamp(min=1)


# ---------------------------------------------------------------- losses
# Each function returns {name: a part of the checkpoint} and loss_of(feature maps, z, rngs). Every
# optimizer among the parts makes a step on the loss.


def steer(args, generator, device):
    """How the direction is learned."""
    steering = feature_noise.Steering(generator.feature_width).to(device)

    def loss_of(feature, z, rngs):
        amounts = [rng.uniform(-1, 1) for rng in rngs]
        strength = torch.tensor(amounts, dtype=torch.float32, device=device)
        with torch.no_grad():
            plain = generator(z, feature).float()
            target, mask = edit(args.edit, plain, EDIT_STRENGTH * strength)
        moved = steering(feature, strength[:, None])
        steered = generator(z, moved).float()
        return distance(steered, target, mask).mean()

    adam = torch.optim.Adam(steering.parameters(), args.learning_rate)
    return {"steer": steering, "adam": adam}, loss_of


def navigate(args, generator, device):
    """How the navigator is learned."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    width = generator.feature_width
    bound = feature_noise.noise_norm(args.feature_noise, width)
    navigator = feature_noise.Navigator(width, bound).to(device)
    small = generator.resolution <= 64
    backbone, width = build_backbone("resnet18", small_images=small)
    head = mlp(width, width, 128)
    simclr = torch.nn.Sequential(backbone, head).to(device)

    def loss_of(feature, z, rngs):
        with torch.no_grad():
            plain = generator(z, feature)
        moved = generator(z, navigator(feature))
        return contrast(simclr, plain, moved, rngs)

    rate = args.learning_rate
    parts = {
        "simclr": simclr,
        "navigator": navigator,
        "minimising": torch.optim.Adam(simclr.parameters(), rate),
        "maximising": torch.optim.Adam(navigator.parameters(), rate, maximize=True),
    }
    return parts, loss_of


def crop(images, rngs):
    """The augmentation that matters most in SimCLR: a square crop of a quarter or more."""
    drawn = []
    for rng in rngs:
        side = math.sqrt(rng.uniform(0.25, 1))
        drawn.append((side, *rng.uniform(-1, 1, 2)))
    side, x, y = torch.tensor(drawn, dtype=torch.float32, device=images.device).T
    room = 1 - side
    cropped, _ = affine(images, 1 / side, x * room, y * room)
    return cropped


def contrast(simclr, plain, moved, rngs):
    """SimCLR's loss of the pairs of two batches; each image gets a crop of its own."""
    crops = [crop(images.float(), rngs) for images in (plain, moved)]
    projections = simclr(torch.cat(crops)).float()
    x, y = projections.chunk(2)
    loss, _ = simclr_loss(x, y, temperature=TEMPERATURE)
    return loss


# ---------------------------------------------------------------- training
def demo_square(image, epoch, index):
    """A crop for `features.read_batches`: what the encoder of IC-GAN's demo wants."""
    return noise.demo_square(image)


def encode(args, device, encoder, paths):
    """Feature maps (N, D) of the images, on the device; the next readable image stands in."""
    files = listed(paths, args.max_unreadable, args.out, root=args.data)
    batches = generator_training.parts(range(len(files)))
    maps = []
    for squares, _ in read_batches(files, batches, demo_square, args.workers, device):
        squares = squares.to(device, non_blocking=True)
        with torch.no_grad(), run.autocast(device, args.precision):
            maps.append(noise.encode(encoder, squares))
    return torch.cat(maps)


def train(args, device, out, generator, features):
    """Returns the trained augmenter."""
    learn = steer if args.augmenter == "steer" else navigate
    parts, loss_of = learn(args, generator, device)
    optimizers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
    state = training.Resumable(out, args.checkpoint_minutes, device, **parts)
    steps = args.steps
    bar = run.progress(steps, args.augmenter, state.step)
    batches = run.batches(len(features), args.batch_size, args.seed, state.step, steps)
    for step, batch in enumerate(batches, state.step):
        indices = [index for _, index in batch]
        rngs = [run.seed_rng(args.seed, "step", step, i) for i in range(len(batch))]
        z = noise.noise_vectors(rngs, generator.z_width).to(device)
        with run.autocast(device, args.precision):
            loss = loss_of(features[indices], z, rngs)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.meter.add(step, {"loss": loss})
        bar.update()
        done = step + 1
        if done % LOG_EVERY == 0 or done == steps:
            means = state.meter.read()
            run_folder.log(out, event="steps", step=done, **means)
        state.save_if_due(step, steps)
    bar.close()
    return parts[args.augmenter]


def main(args, device):
    if parallel.world() > 1:
        run.fail(
            "train_augmenter.py trains on one device: start it with python, not with torchrun.", 2
        )
    run.keep_apart(args.data, out=args.out)
    rng = run.seed_rng(args.seed, "images")
    paths = rng.permutation(find_images(args.data))[: args.images].tolist()
    run.check_batch(len(paths), args.batch_size, least=2)
    generator, encoder, weights = noise.load_icgan(args.weights, device)
    inputs = {"images": len(paths), "list of images": run.names_hash(paths), "weights": weights}
    result = RESULTS[args.augmenter]
    out = run_folder.open_run(args, f"train_augmenter {args.augmenter}", result, inputs=inputs)
    if out is None:
        return
    features = encode(args, device, encoder, paths)
    augmenter = train(args, device, out, generator, features)
    run.save(out / result, augmenter.cpu().state_dict())
    run_folder.close_run(out)


if __name__ == "__main__":
    run.launch(main, args)
