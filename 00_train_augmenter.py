"""Stage 00: train one of two small augmenters of IC-GAN's feature map; the generator stays as it is.

    python 00_train_augmenter.py steer --edit zoom --data ROOT/train --out runs/zoom
    python 00_train_augmenter.py navigator --data ROOT/train --out runs/navigator

`steer` (Formula 6, GenRep) learns one direction of the feature map along which the generated image changes
as under a hand-crafted edit: G(z, f + a w) is to equal edit(G(z, f), a) for a from -1 to 1, in L2.
`navigator` (Formula 7, COP-GEN) learns one layer that moves a feature map so that the two generated images
are as hard a positive pair as possible: a small ResNet minimises SimCLR's loss, the navigator maximises it.
How far it may move is bounded by the norm of the Gaussian noise that --feature-noise stands for.

Reads any folder tree of images; their feature maps are computed once. Writes a run folder: direction.pt or
navigator.pt (for 02_augment.py --steer or --navigator), samples.png, log.jsonl and result.json, with the
comparison on held-out images. The same command continues a run that was interrupted. One device is enough:
a step costs 0.3 TFLOP an image at 256 px, the defaults 4.5 PFLOP (steer) and 18 PFLOP (navigator).
"""

import time

from models import old_run as run


def arguments(argv=None):
    p = run.parser(__doc__)
    commands = p.add_subparsers(dest="augmenter", required=True, metavar="steer | navigator")
    steering = run.subparser(
        commands, "steer", "A direction of the feature map for one hand-crafted edit."
    )
    navigator = run.subparser(
        commands, "navigator", "A layer that makes the hardest positive pairs."
    )
    for c in (steering, navigator):
        c.add_argument("--data", required=True, help="folder tree of images")
        c.add_argument(
            "--weights",
            help="the published IC-GAN: tarball, folder or G_ema_*.pth; without it "
            "looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
        )
        c.add_argument("--out", required=True, help="run folder")
        c.add_argument(
            "--images", type=run.count, default=10000, help="how many to use, a tenth held out"
        )
        c.add_argument("--steps", type=run.count, help="of Adam")
        c.add_argument("--batch-size", type=run.count, help="images a step")
        c.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam")
        c.add_argument("--seed", type=int, default=0)
        c.add_argument(
            "--checkpoint-minutes", type=float, default=10, help="how much work a crash may cost"
        )
        run.device_arguments(c, workers=4)
    steering.set_defaults(steps=1000, batch_size=16)
    steering.add_argument("--edit", required=True, choices=["brightness", "shift", "zoom"])
    steering.add_argument(
        "--edit-strength",
        type=float,
        default=0.25,
        help="of the edit at --steer-strength 1: share of the pixel range that is added, "
        "share of the width it moves right, logarithm of the magnification",
    )
    navigator.set_defaults(steps=2000, batch_size=32)
    navigator.add_argument(
        "--feature-noise",
        type=float,
        default=0.01,
        metavar="STD",
        help="bounds the step to the norm of Gaussian noise of this standard deviation",
    )
    navigator.add_argument(
        "--feature-truncation",
        type=float,
        default=2.0,
        metavar="T",
        help="where that noise is cut, in standard deviations",
    )
    navigator.add_argument("--backbone", default="resnet18", help="of the SimCLR model")
    navigator.add_argument("--temperature", type=float, default=0.1, help="of SimCLR's loss")
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import math
import os

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from models import icgan
from models.heads import mlp, simclr_loss
from models.images import contact_sheet, find_images, read_image
from models.resnet import build_backbone


# ---------------------------------------------------------------- images
class Squares(Dataset):
    """What the encoder sees of each image: uint8 (3, 256, 256)."""

    def __init__(self, root, paths):
        self.root, self.paths = root, paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = icgan.centre_square(read_image(os.path.join(self.root, self.paths[index])))
        return torch.from_numpy(image.copy()).permute(2, 0, 1)


def affine(images, zoom, x=0.0, y=0.0):
    """Magnify (B, 3, H, W) by `zoom` (B,) about the point (x, y) in [-1, 1], which becomes the centre.

    -> (images, mask (B, 3, H, W): where the result stems from inside the image)."""
    zero = torch.zeros_like(zoom)
    matrix = torch.stack([1 / zoom, zero, zero + x, zero, 1 / zoom, zero + y], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    inside = (grid.abs() <= 1).all(-1).unsqueeze(1)
    return F.grid_sample(
        images, grid, padding_mode="border", align_corners=False
    ), inside.expand_as(images)


def edit(kind, images, amount):
    """The hand-crafted edit of images in [-1, 1] by `amount` (B,): (target, mask of what it defines)."""
    if kind == "brightness":
        return (images + 2 * amount[:, None, None, None]).clamp(-1, 1), torch.ones_like(images)
    if kind == "shift":
        return affine(images, torch.ones_like(amount), x=-2 * amount)
    return affine(images, amount.exp())


def distance(images, target, mask):
    """Mean squared difference of each image where the mask is set, (B,)."""
    return ((images - target).square() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)


def to_pixels(images):
    """Float (B, 3, H, W) in [-1, 1] -> list of uint8 (H, W, 3)."""
    return list(((images.float() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())


# ---------------------------------------------------------------- training
def prepare(args, device):
    """(generator, feature maps to train on, feature maps held out, {weight file: sha256})."""
    paths = find_images(args.data)
    order = run.seed_rng(args.seed, "images").permutation(len(paths))[: args.images]
    held = max(2, len(order) // 10)
    run.check_batch(len(order) - held, args.batch_size)
    generator, encoder, weights = icgan.load_icgan(args.weights)
    generator, encoder, features = generator.to(device), encoder.to(device), []
    squares = Squares(args.data, [paths[i] for i in order])
    bar = run.progress(len(order), "encoding")
    for batch in DataLoader(squares, batch_size=64, num_workers=args.workers):
        with torch.no_grad(), run.autocast(device, args.precision):
            features.append(icgan.encode(encoder, icgan.encoder_input(batch.to(device))).float())
        bar.update(len(batch))
    bar.close()
    features = torch.cat(features)
    return generator, features[held:], features[:held], weights


def train(args, device, out, features, trained, loss_of):
    """Steps on loss_of(feature maps, random generators) of a batch; `trained`: {module: its Adam}."""
    first, saved, total = 0, time.time(), torch.zeros((), device=device)
    if checkpoint := run.load_checkpoint(out):
        for (module, adam), (weights, state) in zip(
            trained.items(), checkpoint["states"], strict=True
        ):
            module.load_state_dict(weights)
            adam.load_state_dict(state)
        first, total = checkpoint["step"], checkpoint["total"].to(device)
    bar = run.progress(args.steps, args.augmenter, first)
    order = run.batches(len(features), args.batch_size, args.seed, first, args.steps)
    for step, batch in enumerate(order, first):
        rngs = [run.seed_rng(args.seed, "step", step, i) for i in range(len(batch))]
        with run.autocast(device, args.precision):
            loss = loss_of(features[[i for _, i in batch]], rngs)
        for adam in trained.values():
            adam.zero_grad(set_to_none=True)
        loss.backward()
        for adam in trained.values():
            adam.step()
        total = total + loss.detach()
        bar.update()
        logging, last = (step + 1) % 100 == 0, step + 1 == args.steps
        saving = time.time() - saved > 60 * args.checkpoint_minutes and not last
        if (logging or saving or last) and not math.isfinite(total):
            run.fail(
                f"The loss became {float(total)} shortly before step {step + 1}: lower --learning-rate."
            )
        if logging or last:
            mean = float(total) / (step % 100 + 1)
            run.log(out, event="steps", step=step + 1, loss=mean)
            bar.set_postfix(loss=f"{mean:.4f}")
            total = torch.zeros((), device=device)
        if saving:
            states = [(module.state_dict(), adam.state_dict()) for module, adam in trained.items()]
            run.save_checkpoint(out, step=step + 1, states=states, total=total)
            saved = time.time()
    bar.close()


def train_steer(args, device, out):
    generator, features, held, weights = prepare(args, device)
    steering = torch.nn.ParameterDict(
        {"direction": torch.zeros(generator.feature_width, device=device)}
    )

    def loss_of(feature, rngs):
        z = icgan.draw_z(rngs, generator.z_width).to(device)
        strength = torch.tensor(
            [rng.uniform(-1, 1) for rng in rngs], dtype=torch.float32, device=device
        )
        with torch.no_grad():
            target, mask = edit(
                args.edit, generator(z, feature).float(), args.edit_strength * strength
            )
        images = generator(z, icgan.steer(feature, steering["direction"], strength[:, None]))
        return distance(images.float(), target, mask).mean()

    adam = torch.optim.Adam(steering.parameters(), args.learning_rate)
    train(args, device, out, features, {steering: adam}, loss_of)

    errors, rows = {"steered": [], "unsteered": []}, []
    with torch.no_grad(), run.autocast(device, args.precision):
        for i, feature in enumerate(held.split(1)):
            z = icgan.draw_z([run.seed_rng(args.seed, "held out", i)], generator.z_width).to(device)
            plain, row = generator(z, feature).float(), []
            for sign in (-1.0, 1.0):
                amount = torch.full((1,), sign * args.edit_strength, device=device)
                target, mask = edit(args.edit, plain, amount)
                steered = generator(z, icgan.steer(feature, steering["direction"], sign)).float()
                errors["steered"].append(float(distance(steered, target, mask)))
                errors["unsteered"].append(float(distance(plain, target, mask)))
                row += [target, steered] if sign < 0 else [plain, steered, target]
            rows += [to_pixels(torch.cat(row))] if i < 6 else []
    contact_sheet(
        out / "samples.png", rows, ["edit -1", "steered -1", "G(z, f)", "steered +1", "edit +1"]
    )
    run.save(out / "direction.pt", {"direction": steering["direction"].detach().cpu()})
    error = {name: sum(values) / len(values) for name, values in errors.items()}
    return {"results": {"edit_error": error}, "held_out": len(held), "weights": weights}


def train_navigator(args, device, out):
    if args.batch_size < 2:
        run.fail(
            "--batch-size must be at least 2: an image is contrasted with the others of its batch.",
            2,
        )
    generator, features, held, weights = prepare(args, device)
    torch.manual_seed(run.image_seed(args.seed, "init"))
    bound = icgan.noise_norm(args.feature_noise, args.feature_truncation, generator.feature_width)
    navigator = icgan.Navigator(generator.feature_width, bound).to(device)
    backbone, width = build_backbone(args.backbone, small_images=generator.resolution <= 64)
    simclr = torch.nn.Sequential(backbone, mlp(width, width, 128)).to(device)

    def view(images, rngs):
        """Of SimCLR's augmentations the one that matters most: a square crop of a quarter or more."""
        drawn = [(math.sqrt(rng.uniform(0.25, 1)), *rng.uniform(-1, 1, 2)) for rng in rngs]
        side, x, y = torch.tensor(drawn, dtype=torch.float32, device=device).T
        return affine(images, 1 / side, x * (1 - side), y * (1 - side))[0]

    def contrast(plain, moved, rngs):
        images = torch.cat([view(plain.float(), rngs), view(moved.float(), rngs)])
        return simclr_loss(*simclr(images).float().chunk(2), temperature=args.temperature)[0]

    def loss_of(feature, rngs):
        z = icgan.draw_z(rngs, generator.z_width).to(device)
        with torch.no_grad():
            plain = generator(z, feature)
        return contrast(plain, generator(z, navigator(feature)), rngs)

    train(
        args,
        device,
        out,
        features,
        {
            simclr: torch.optim.Adam(simclr.parameters(), args.learning_rate),
            navigator: torch.optim.Adam(navigator.parameters(), args.learning_rate, maximize=True),
        },
        loss_of,
    )

    def rngs_of(batch, n, what):
        return [run.seed_rng(args.seed, "held out", what, batch, i) for i in range(n)]

    simclr.eval()
    losses, rows = {"navigator": [], "noise": [], "unchanged": []}, []
    with torch.no_grad(), run.autocast(device, args.precision):
        for i, feature in enumerate(held.split(args.batch_size)):
            draws = rngs_of(i, len(feature), "z")
            z = icgan.draw_z(draws, generator.z_width).to(device)
            noisy = icgan.feature_noise(feature, args.feature_noise, args.feature_truncation, draws)
            images = {
                "unchanged": generator(z, feature),
                "noise": generator(z, noisy),
                "navigator": generator(z, navigator(feature)),
            }
            for name in losses if len(feature) > 1 else ():
                crops = rngs_of(i, len(feature), "crop")
                losses[name].append(float(contrast(images["unchanged"], images[name], crops)))
            rows += list(zip(*map(to_pixels, images.values()), strict=True))[: 6 - len(rows)]
    contact_sheet(out / "samples.png", rows, ["G(z, f)", "noise", "navigator"])
    run.save(
        out / "navigator.pt",
        {name: tensor.cpu() for name, tensor in navigator.state_dict().items()},
    )
    loss = {name: sum(values) / len(values) for name, values in losses.items()}
    return {
        "results": {"contrastive_loss": loss},
        "bound": bound,
        "held_out": len(held),
        "weights": weights,
    }


def main(args):
    stage = f"00_train_augmenter {args.augmenter}"
    if run.world() > 1:
        run.fail(
            "00_train_augmenter.py trains on one device: start it with python, not with torchrun.",
            2,
        )
    if run.finished("result.json", stage, args):
        return
    device, out = run.start(args), run.open_run(args.out, stage, args)
    result = (train_steer if args.augmenter == "steer" else train_navigator)(args, device, out)
    run.write_json(out / "result.json", {"stage": stage, "args": vars(args), **result})
    (out / "checkpoint.pth").unlink(missing_ok=True)
    print(result["results"])


if __name__ == "__main__":
    run.run_main(main, args)
