"""Stage 00: train a generator on your own images, without labels (dissertation, section 5.7).

    python 00_train_generator.py vqgan   --data ROOT/train --out runs/vqgan
    python 00_train_generator.py maskgit --data ROOT/train --out runs/maskgit --tokenizer runs/vqgan
    torchrun --standalone --nproc_per_node=4 00_train_generator.py vqgan --data ROOT/train --out runs/vqgan

`vqgan` learns to write an image as a grid of discrete tokens and to read it back; `maskgit` learns to fill
in masked tokens. 02_augment.py --weights runs/maskgit then in- and out-paints with them.
Reads any folder tree of images. Writes a run folder: generator.pth (the weights), log.jsonl,
reconstructions.png or samples.png (renewed every epoch), curves.png. The same command continues a run that
was interrupted, and returns at once when it is finished.

The defaults are the dissertation's satellite study: 128 px, 8x8-pixel patches, 16x16 tokens of 1,024 codes,
300 epochs of batch 32, then 24 layers of width 768 without label token, 3,000 epochs of batch 48. The
optimiser's values, which it does not give, are the VQGAN paper's (arXiv:2012.09841) and the MaskGIT
paper's (arXiv:2202.04200). Small images want --size, fewer --multipliers and narrow networks:
recipes/quickstart.sh shows a set that trains in minutes on a CPU.
"""

import time

from models.old_run import (
    autocast,
    batches,
    check_batch,
    count,
    device_arguments,
    fail,
    finished,
    image_seed,
    load,
    load_checkpoint,
    log,
    open_run,
    parser,
    progress,
    rank,
    read_log,
    run_main,
    save,
    save_checkpoint,
    seed_rng,
    start,
    subparser,
    world,
)


def arguments(argv=None):
    p = parser(__doc__)
    commands = p.add_subparsers(dest="model", required=True, metavar="vqgan | maskgit")
    vq = subparser(commands, "vqgan", "The tokenizer: images <-> discrete tokens.")
    git = subparser(commands, "maskgit", "The label-free transformer that predicts masked tokens.")
    for c in (vq, git):
        c.add_argument("--data", required=True, help="folder tree of images")
        c.add_argument("--out", required=True, help="run folder")
        c.add_argument("--epochs", type=float, help="passes over the images; a fraction is allowed")
        c.add_argument("--batch-size", type=count, help="images a step, over all processes")
        c.add_argument("--learning-rate", type=float, help="of Adam")
        c.add_argument("--seed", type=int, default=0)
        c.add_argument(
            "--checkpoint-minutes", type=float, default=10, help="how much work a crash may cost"
        )
        device_arguments(c, workers=4)
    vq.set_defaults(
        epochs=300.0, batch_size=32, learning_rate=1.44e-4
    )  # 4.5e-6 x batch: VQGAN's configuration
    vq.add_argument(
        "--size",
        type=int,
        default=128,
        help="side in pixels; images are resized and centre-cropped",
    )
    vq.add_argument("--filters", type=int, default=128, help="base width of the network")
    vq.add_argument(
        "--multipliers",
        type=int,
        nargs="+",
        default=[1, 2, 2, 4],
        help="of the width, one a level: n levels make a token cover 2^(n-1) x unshuffle pixels",
    )
    vq.add_argument("--blocks", type=int, default=2, help="residual blocks a level")
    vq.add_argument("--codes", type=int, default=1024, help="size of the codebook")
    vq.add_argument("--code-dim", type=int, default=256)
    vq.add_argument(
        "--groups", type=int, default=32, help="of the group norms; must divide every width"
    )
    vq.add_argument(
        "--unshuffle",
        type=int,
        default=1,
        help="2 folds 2x2 pixels into channels first: much cheaper, a little less sharp",
    )
    vq.add_argument("--commitment", type=float, default=0.25, help="weight of the commitment loss")
    vq.add_argument(
        "--perceptual-weight",
        type=float,
        default=1.0,
        help="of the VGG-16 feature loss, which needs torchvision's VGG-16 weights; 0: without",
    )
    vq.add_argument(
        "--gan-weight",
        type=float,
        default=0.8,
        help="of the PatchGAN loss, scaled adaptively; 0: without",
    )
    vq.add_argument(
        "--gan-start",
        type=float,
        default=30,
        metavar="EPOCH",
        help="the discriminator joins here (our choice: a tenth of the training)",
    )
    vq.add_argument(
        "--restart-steps",
        type=count,
        default=100,
        help="codes unused for so many steps are moved to a random feature of the batch",
    )
    git.set_defaults(epochs=3000.0, batch_size=48, learning_rate=1e-4)
    git.add_argument("--tokenizer", required=True, help="run folder of the vqgan")
    git.add_argument("--layers", type=int, default=24)
    git.add_argument("--dim", type=int, default=768)
    git.add_argument("--heads", type=int, default=16)
    git.add_argument("--dropout", type=float, default=0.1)
    git.add_argument("--label-smoothing", type=float, default=0.1)
    git.add_argument(
        "--ema",
        type=float,
        default=0.9999,
        help="decay of the moving average of the weights, which is what is kept; shorter for short runs",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from models import maskgit
from models.augmenters import to_bytes
from models.heads import gather
from models.images import contact_sheet, find_images, read_image, square
from models.plots import curves
from models.vqgan import VQGAN, PatchDiscriminator
from models.weights import fill, find, load_maskgit


class Images(Dataset):
    """(epoch, index) -> uint8 (3, size, size), flipped left-right at random in training (epoch not None)."""

    def __init__(self, root, paths, size, seed):
        self.root, self.paths, self.size, self.seed = root, paths, size, seed

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, item):
        epoch, index = item if isinstance(item, tuple) else (None, item)
        image = square(read_image(os.path.join(self.root, self.paths[index])), self.size)
        if (
            epoch is not None
            and seed_rng(self.seed, "flip", epoch, self.paths[index]).random() < 0.5
        ):
            image = image[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def average_gradients(parameters):
    """The mean gradient over the processes: what one process on the whole batch would have."""
    if world() > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        for g, mean in zip(
            gradients, (flat / world()).split([g.numel() for g in gradients]), strict=True
        ):
            g.copy_(mean.view_as(g))


class Meter:
    """Running sums on the device, read once a log line: no synchronisation in between."""

    def __init__(self):
        self.sums, self.n = {}, 0

    def add(self, terms):
        self.n += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()

    def read(self, step):
        means = {name: float(value) / self.n for name, value in self.sums.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                fail(
                    f"{name} became {value} at or shortly before step {step}: lower --learning-rate; the last "
                    "checkpoint is kept."
                )
        self.sums, self.n = {}, 0
        return means


# ---------------------------------------------------------------- vqgan
class Perceptual(torch.nn.Module):
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its learned weights: mean squared distance of
    channel-normalised VGG-16 features after conv1_2, 2_2, 3_3, 4_3 and 5_3."""

    def __init__(self):
        super().__init__()
        from torchvision.models import vgg16

        vgg = vgg16()
        fill(vgg, load(find("vgg16")), "VGG-16")
        self.slices = torch.nn.ModuleList(
            vgg.features[a:b] for a, b in ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x, y):
        x, y, total = (x - self.mean) / self.std, (y - self.mean) / self.std, 0
        for part in self.slices:
            x, y = part(x), part(y)
            total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean()
        return total


def adaptive_weight(reconstruction_loss, gan_loss, last_layer):
    """VQGAN, equation 7: the ratio of the two losses' gradients at the decoder's last layer."""
    norms = []
    for loss in (reconstruction_loss, gan_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        if world() > 1:
            torch.distributed.all_reduce(gradient)
        norms.append(gradient.norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()


def train_vqgan(args):
    device = start(args)
    if finished("generator.pth", "00_train_generator vqgan", args):
        return
    paths = find_images(args.data)
    patch = args.unshuffle * 2 ** (len(args.multipliers) - 1)
    if args.size % patch:
        fail(f"--size {args.size} is not a multiple of the {patch} pixels a token covers.", 2)
    if any(args.filters * m % args.groups for m in (1, *args.multipliers)):
        fail(
            f"--groups {args.groups} does not divide every width ({args.filters} x {args.multipliers}).",
            2,
        )
    if min(read_image(os.path.join(args.data, paths[0])).shape[:2]) < patch:
        fail(f"{paths[0]} is smaller than the {patch} pixels a token covers.", 2)
    check_batch(len(paths), args.batch_size)
    out = open_run(args.out, "00_train_generator vqgan", args)
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch))

    torch.manual_seed(image_seed(args.seed, "init"))
    config = {
        "filters": args.filters,
        "multipliers": args.multipliers,
        "blocks": args.blocks,
        "codes": args.codes,
        "dim": args.code_dim,
        "groups": args.groups,
        "unshuffle": args.unshuffle,
    }
    model = VQGAN(**config).to(device)
    critic = PatchDiscriminator().to(device)
    perceptual = Perceptual().to(device) if args.perceptual_weight else None
    adam = torch.optim.Adam(model.parameters(), args.learning_rate, betas=(0.5, 0.9))
    adam_critic = torch.optim.Adam(critic.parameters(), args.learning_rate, betas=(0.5, 0.9))
    used = torch.zeros(args.codes, device=device)  # since the last restart

    first = 0
    if checkpoint := load_checkpoint(out):
        model.load_state_dict(checkpoint["model"])
        critic.load_state_dict(checkpoint["critic"])
        adam.load_state_dict(checkpoint["adam"])
        adam_critic.load_state_dict(checkpoint["adam_critic"])
        used.copy_(checkpoint["used"])
        first = checkpoint["step"]
    data = Images(args.data, paths, args.size, args.seed)
    loader = DataLoader(
        data,
        batch_sampler=batches(len(paths), args.batch_size, args.seed, first, total),
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    shown = (
        torch.stack([data[i] for i in range(0, len(paths), -(-len(paths) // 8))]).to(device).float()
        / 255
    )
    meter, epoch_counts, bar, saved = (
        Meter(),
        torch.zeros_like(used),
        progress(total, "vqgan", first),
        time.time(),
    )
    if checkpoint:
        meter.sums, meter.n = (
            {k: v.to(device) for k, v in checkpoint["sums"].items()},
            checkpoint["n"],
        )
        epoch_counts.copy_(checkpoint["epoch_counts"])

    for step, batch in enumerate(loader, first):
        x = batch.to(device, non_blocking=True).float() / 255
        adversarial = args.gan_weight > 0 and step >= args.gan_start * per_epoch
        with autocast(device, args.precision):
            if step == 0:  # start with codes where the features are
                features = gather(
                    model.encoder(x).permute(0, 2, 3, 1).flatten(0, 2).float().detach()
                )
                chosen = seed_rng(args.seed, "codes").choice(
                    len(features), args.codes, len(features) < args.codes
                )
                model.codebook.data.copy_(features[torch.from_numpy(chosen).to(device)])
            reconstruction, features, ids = model(x)
            reconstruction, features = reconstruction.float(), features.float()
            l1, mse = (x - reconstruction).abs().mean(), F.mse_loss(reconstruction.detach(), x)
            codes = model.codebook[ids]
            codebook, commitment = (
                F.mse_loss(codes, features.detach()),
                F.mse_loss(features, codes.detach()),
            )
            terms = {"l1": l1, "mse": mse, "codebook": codebook}
            loss = l1
            if perceptual:
                terms["perceptual"] = perceptual(reconstruction, x)
                loss = loss + args.perceptual_weight * terms["perceptual"]
            if adversarial:
                terms["generator"] = -critic(reconstruction).float().mean()
                weight = adaptive_weight(loss, terms["generator"], model.decoder.out.weight)
                loss = loss + args.gan_weight * weight * terms["generator"]
            loss = loss + codebook + args.commitment * commitment
        adam.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(model.parameters())
        adam.step()
        if adversarial:
            with autocast(device, args.precision):  # hinge loss
                terms["critic"] = (
                    F.relu(1 - critic(x).float()).mean()
                    + F.relu(1 + critic(reconstruction.detach()).float()).mean()
                ) / 2
            adam_critic.zero_grad(set_to_none=True)
            terms["critic"].backward()
            average_gradients(critic.parameters())
            adam_critic.step()

        counts = torch.bincount(gather(ids), minlength=args.codes).float()
        used += counts
        epoch_counts += counts
        meter.add({"loss": loss, **terms})
        if (step + 1) % args.restart_steps == 0 and step + 1 < total:
            dead = used == 0
            everyone = gather(features.detach())
            pick = torch.from_numpy(
                seed_rng(args.seed, "restart", step).integers(len(everyone), size=args.codes)
            )
            model.codebook.data = torch.where(
                dead[:, None], everyone[pick.to(device)], model.codebook.data
            )
            used.zero_()
        bar.update()
        if (step + 1) % per_epoch == 0 or step + 1 == total:
            share = epoch_counts / epoch_counts.sum()
            means = meter.read(step + 1)
            means |= {
                "psnr": -10 * math.log10(means["mse"]),
                "codes_used": int((epoch_counts > 0).sum()),
                "perplexity": float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum())),
            }
            log(out, event="epoch", epoch=(step + 1) / per_epoch, step=step + 1, **means)
            bar.set_postfix(psnr=f"{means['psnr']:.1f}", perplexity=f"{means['perplexity']:.0f}")
            epoch_counts.zero_()
            if rank() == 0:
                with torch.no_grad(), autocast(device, args.precision):
                    again = model.decode(model.encode(shown))
                contact_sheet(
                    out / "reconstructions.png", [to_bytes(shown).numpy(), to_bytes(again).numpy()]
                )
                curves(out / "curves.png", read_log(out, "epoch"), ["l1", "psnr", "perplexity"])
        if time.time() - saved > 60 * args.checkpoint_minutes and step + 1 < total:
            save_checkpoint(
                out,
                step=step + 1,
                model=model.state_dict(),
                critic=critic.state_dict(),
                used=used,
                adam=adam.state_dict(),
                adam_critic=adam_critic.state_dict(),
                sums={k: torch.as_tensor(v) for k, v in meter.sums.items()},
                n=meter.n,
                epoch_counts=epoch_counts,
            )
            saved = time.time()
    bar.close()
    if rank() == 0:
        save(
            out / "generator.pth",
            {"tokenizer": model.state_dict(), "tokenizer_config": model.config, "size": args.size},
        )
        (out / "checkpoint.pth").unlink(missing_ok=True)


# ---------------------------------------------------------------- maskgit
@torch.no_grad()
def tokenize(tokenizer, args, paths, device):
    """Tokens of every image and of its mirror image, (n, 2, tokens) int16: training reads no pixels."""
    data = Images(args.data, paths, tokenizer.image_size, args.seed)
    bar, tokens = progress(len(paths), "encoding"), []
    for images in DataLoader(data, batch_size=64, num_workers=args.workers):
        x = images.to(device).float() / 255
        with autocast(device, args.precision):
            tokens.append(
                torch.stack([tokenizer.encode(x), tokenizer.encode(x.flip(3))], 1).short().cpu()
            )
        bar.update(len(images))
    bar.close()
    return torch.cat(tokens)


def train_maskgit(args):
    device = start(args)
    if finished("generator.pth", "00_train_generator maskgit", args):
        return
    paths = find_images(args.data)
    check_batch(len(paths), args.batch_size)
    tokenizer, _, _ = load_maskgit(args.tokenizer)
    out = open_run(args.out, "00_train_generator maskgit", args)
    tokenizer.to(device)
    tokens = tokenize(tokenizer, args, paths, device)
    per_epoch, length = len(paths) // args.batch_size, tokens.shape[2]
    total = max(1, round(args.epochs * per_epoch))

    torch.manual_seed(image_seed(args.seed, "init"))
    model = maskgit.MaskGIT(
        tokenizer.config["codes"],
        0,
        length,
        args.layers,
        args.dim,
        args.heads,
        4 * args.dim,
        args.dropout,
    ).to(device)
    average = maskgit.MaskGIT(**model.config).to(device).requires_grad_(False).eval()
    average.load_state_dict(model.state_dict())
    adam = torch.optim.AdamW(
        model.parameters(),
        args.learning_rate,
        betas=(0.9, 0.96),
        weight_decay=0.045,
        fused=device.type == "cuda",
    )
    first, meter, saved = 0, Meter(), time.time()
    if checkpoint := load_checkpoint(out):
        model.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        adam.load_state_dict(checkpoint["adam"])
        meter.sums, meter.n = (
            {k: v.to(device) for k, v in checkpoint["sums"].items()},
            checkpoint["n"],
        )
        first = checkpoint["step"]
    bar = progress(total, "maskgit", first)

    for step, pairs in enumerate(
        batches(len(paths), args.batch_size, args.seed, first, total), first
    ):
        rng = seed_rng(args.seed, "masks", step, rank())
        index = torch.tensor([i for _, i in pairs])
        flip = torch.from_numpy(rng.integers(0, 2, len(pairs)))
        target = tokens[index, flip].long().to(device, non_blocking=True)
        # the share to mask follows the cosine schedule: as often as decoding meets it
        masked = np.ceil(np.cos(np.pi / 2 * rng.random(len(pairs))) * length).clip(1, length)
        order = rng.random((len(pairs), length)).argsort(1).argsort(1)
        where = torch.from_numpy(order < masked[:, None]).to(device, non_blocking=True)
        torch.manual_seed(image_seed(args.seed, "dropout", step, rank()))
        with autocast(device, args.precision):
            logits = model(target.masked_fill(where, maskgit.MASK), where=where)
        wanted = target[where]
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=args.label_smoothing)
        if world() > 1:  # each token counts the same, whichever process masked how many
            everyone = where.sum()
            torch.distributed.all_reduce(everyone)
            loss = loss * where.sum() * world() / everyone
        accuracy = (logits.detach().argmax(1) == wanted).float().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(model.parameters())
        for (
            group
        ) in adam.param_groups:  # linear warm-up over the first 5 % of the steps, constant after it
            group["lr"] = args.learning_rate * min(1, (step + 1) / max(1, 0.05 * total))
        adam.step()
        decay = min(args.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay
        )
        meter.add({"loss": loss, "accuracy": accuracy})
        bar.update()
        if (step + 1) % per_epoch == 0 or step + 1 == total:
            means = meter.read(step + 1)
            log(out, event="epoch", epoch=(step + 1) / per_epoch, step=step + 1, **means)
            bar.set_postfix(loss=f"{means['loss']:.3f}")
            if rank() == 0:
                with torch.no_grad(), autocast(device, args.precision):
                    empty = torch.full((8, length), maskgit.MASK, device=device)
                    rngs = [seed_rng(args.seed, "sample", i) for i in range(8)]
                    images = tokenizer.decode(maskgit.sample(average, empty, None, rngs))
                contact_sheet(out / "samples.png", [to_bytes(images).numpy()])
                curves(out / "curves.png", read_log(out, "epoch"), ["loss", "accuracy"])
        if time.time() - saved > 60 * args.checkpoint_minutes and step + 1 < total:
            save_checkpoint(
                out,
                step=step + 1,
                model=model.state_dict(),
                average=average.state_dict(),
                adam=adam.state_dict(),
                n=meter.n,
                sums={k: torch.as_tensor(v) for k, v in meter.sums.items()},
            )
            saved = time.time()
    bar.close()
    if rank() == 0:
        saved = load(os.path.join(args.tokenizer, "generator.pth"))
        save(
            out / "generator.pth",
            saved | {"transformer": average.state_dict(), "transformer_config": average.config},
        )
        (out / "checkpoint.pth").unlink(missing_ok=True)


def main(args):
    {"vqgan": train_vqgan, "maskgit": train_maskgit}[args.model](args)


if __name__ == "__main__":
    run_main(main, args)
