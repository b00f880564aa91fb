"""Stage 03: self-supervised pretraining on pairs of a real and a generated view (dissertation, chapter 5).

    python 03_pretrain.py --data ROOT/train --generated gen/inpaint --out runs/inpaint
    torchrun --standalone --nproc_per_node=4 03_pretrain.py --data ROOT/train --generated gen/inpaint --out runs/inpaint

One view of an image is always real, with the method's published augmentations. The other is, with
probability --mix, the stored generated image with the --pair augmentations on top, otherwise the real image
with the published set of the second view. --mix 0 is exactly the baseline: same random numbers, the
generated folder is not opened. --generated real is the control: the real image, resized and cropped like a
generated one, stands in its place; what it gains over the baseline is not a gain of generation.

The defaults are the dissertation's (VICReg, ResNet-50, 100 epochs, LARS, batch 800) and, where it is silent,
the published recipe of the method; models/lars.py lists both with their sources. Reads a folder tree of
images and mirrors made by 02_augment.py. Writes a run folder: backbone.pth (torchvision's names, loads
strictly), log.jsonl, curves.png, views.png (the first batch as the network sees it). The same command
continues an interrupted run, bit for bit on a CPU, and returns at once when it is finished.

On 4 x 24 GB a batch of 800 at 224 px is 200 pairs a GPU: an estimated 18.5 GiB in bf16 (16.7 GiB of activations
kept for the backward pass, 2.0 GiB of weights, gradients and momentum; counted on tensors without data, not measured:
python bench.py memory). If it does not fit, --grad-checkpoint trades a third more time for most of it. Gradient
accumulation is not offered: it does not enlarge the batch that the losses' statistics see.
"""

import time
from pathlib import Path

from models.old_run import (
    FREE,
    autocast,
    batches,
    check_batch,
    count,
    device_arguments,
    fail,
    finished,
    image_seed,
    load_checkpoint,
    log,
    open_run,
    parser,
    progress,
    rank,
    read_json,
    read_log,
    run_main,
    save,
    save_checkpoint,
    share,
    start,
    world,
)

STAGE = "03_pretrain"
FREE_HERE = ("log_every", "knn", "knn_every", *FREE)  # may change when a run is resumed


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument(
        "--data", required=True, help="folder tree of the real images; labels are not used"
    )
    p.add_argument("--out", required=True, help="run folder")
    p.add_argument("--method", default="vicreg", help="vicreg, barlow, dino, simclr, byol or swav")
    # views
    p.add_argument(
        "--generated",
        nargs="+",
        default=[],
        metavar="DIR",
        help="mirrors made by 02_augment.py; one of all their views is drawn at random per image and epoch. "
        "'real': the control, the real image in place of a generated one",
    )
    p.add_argument(
        "--mix",
        type=share,
        metavar="GAMMA",
        help="probability of a generated view (default: 0.5 with --generated, else 0)",
    )
    p.add_argument(
        "--pair",
        nargs="+",
        default=["crop"],
        metavar="NAME",
        help="augmentations on top of a generated view: any of crop flip jitter blur solarize grayscale, or "
        "none. Crop alone did best (Table 3), colour hurts",
    )
    p.add_argument(
        "--views",
        type=count,
        default=1,
        metavar="K",
        help="generated views per image, 1 to 3, from distinct mirrors; the loss is the mean over the pairs",
    )
    p.add_argument(
        "--local-crops",
        type=int,
        metavar="N",
        help="small crops per image (default: 6 for dino, else 0)",
    )
    p.add_argument("--local-size", type=count, default=96, help="their side in pixels")
    p.add_argument(
        "--local-crops-from",
        default="real",
        choices=["real", "generated"],
        help="what they are cut from",
    )
    p.add_argument(
        "--store-size",
        type=count,
        default=256,
        help="side at which --generated real stores its image: as large as the generated ones are",
    )
    p.add_argument("--size", type=count, default=224, help="side of a view in pixels")
    # network
    p.add_argument(
        "--backbone",
        default="resnet50",
        help="a ResNet: resnet18, resnet50, ..., resnet10 for tiny images",
    )
    p.add_argument(
        "--small-images",
        action="store_true",
        help="3x3 stem without max-pool, for images of <= 64 px",
    )
    p.add_argument(
        "--projector", metavar="N-N-N", help="widths of the projector (default: the published ones)"
    )
    p.add_argument(
        "--init", metavar="FILE", help="start from these backbone weights instead of random ones"
    )
    # optimisation
    p.add_argument("--epochs", type=count, default=100)
    p.add_argument(
        "--batch-size",
        type=count,
        metavar="N",
        help="images a step, over all processes (default: the "
        "dissertation's 800, with --views 2 512, with --views 3 384)",
    )
    p.add_argument(
        "--optimizer",
        default="published",
        choices=["published", "lars", "adamw"],
        help="published: the method's own; adamw suits small images and small batches",
    )
    p.add_argument(
        "--learning-rate",
        type=float,
        metavar="LR",
        help="base value, scaled with the batch as the method does, mostly x batch/256 (default: published)",
    )
    p.add_argument("--weight-decay", type=float, metavar="W", help="(default: published)")
    p.add_argument("--warmup-epochs", type=float, metavar="N", help="(default: published, 10)")
    p.add_argument(
        "--clip-grad",
        type=float,
        metavar="NORM",
        help="largest gradient norm of a parameter (default: published, 3 for dino, else none)",
    )
    p.add_argument(
        "--queue",
        type=int,
        help="SwAV's queue, a multiple of the batch is simplest (default: 3840)",
    )
    p.add_argument("--queue-start", type=float, metavar="EPOCH", help="(default: 15)")
    p.add_argument(
        "--grad-checkpoint",
        action="store_true",
        help="recompute activations in the backward pass; "
        "BatchNorm's running statistics then move twice a step",
    )
    p.add_argument("--seed", type=int, default=0)
    # watching
    p.add_argument("--log-every", type=count, default=50, metavar="STEPS")
    p.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10,
        help="how much work a crash may cost; 0: every step",
    )
    p.add_argument(
        "--knn",
        metavar="ROOT",
        help="probe the backbone by kNN on ROOT/train and ROOT/val (needs labels)",
    )
    p.add_argument("--knn-every", type=count, default=10, metavar="EPOCHS")
    device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import math

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.data import DataLoader

from models.heads import build_method, embedding_stats
from models.images import contact_sheet, find_images
from models.lars import LARS, METHODS, cosine_warmup, param_groups, peak_lr
from models.plots import curves
from models.resnet import build_backbone, load_backbone
from models.views import SPECS, PairDataset, apply_batch


def mirrors_of(args):
    """(view folders, their augment.json) of --generated; nothing is opened at gamma 0."""
    if args.mix == 0:
        return [], []
    if args.generated == ["real"]:
        return "real", ["real"]
    folders, made_by = [], []
    for mirror in map(Path, args.generated):
        about = next(
            (f for f in (mirror / "augment.json", mirror.parent / "augment.json") if f.exists()),
            None,
        )
        if about is None:
            fail(
                f"--generated {mirror} is not a mirror made by 02_augment.py: there is no augment.json.",
                2,
            )
        views = sorted(
            (f for f in mirror.glob("view*") if f.is_dir()), key=lambda f: int(f.name[4:])
        )
        folders += views or [mirror]
        made_by.append(read_json(about) | {"folder": str(mirror)})
        if mirror.name.startswith("strength"):  # one of several strengths that one command made
            made_by[-1]["args"]["strength"] = [float(mirror.name.removeprefix("strength"))]
    return folders, made_by


def complete(args):
    """Fill in the defaults that depend on other arguments."""
    if args.method not in METHODS:
        fail(f"--method {args.method}: the methods are {', '.join(METHODS)}.", 2)
    published = METHODS[args.method]
    if args.mix is None:
        args.mix = 0.5 if args.generated else 0.0
    if args.mix > 0 and not args.generated:
        fail(
            "--mix above 0 needs --generated: a mirror made by 02_augment.py, or 'real' for the control.",
            2,
        )
    if args.views > 3:
        fail("--views is 1 to 3.", 2)
    if args.views > 1 and not args.generated:
        fail("--views above 1 needs --generated with as many mirrors.", 2)
    if args.batch_size is None:
        args.batch_size = {1: 800, 2: 512, 3: 384}[args.views]
    for name, key in (
        ("local_crops", "local_crops"),
        ("learning_rate", "lr"),
        ("weight_decay", "weight_decay"),
        ("warmup_epochs", "warmup_epochs"),
        ("clip_grad", "clip_grad"),
    ):
        if getattr(args, name) is None:
            setattr(args, name, published[key])
    if args.optimizer == "published":
        args.optimizer = published["optimizer"]


def build_optimizer(args, model):
    recipe = METHODS[args.method] | {"optimizer": args.optimizer, "weight_decay": args.weight_decay}
    groups = param_groups(model, recipe)
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, foreach=True)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, foreach=True)
    return LARS(groups)


def checkpoint_stages(backbone):
    """Keep only the inputs of the four stages; the backward pass recomputes what is inside."""
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = getattr(backbone, name)
        stage.forward = lambda x, forward=stage.forward: recompute(forward, x, use_reentrant=False)


class Meter:
    """Sums of the logged terms, and the first step at which each was not finite: all on the device, so that
    nothing waits for it between two log lines. State: {name: (sum, number of steps, first bad step)}."""

    def __init__(self, state=None):
        self.state = dict(state or {})

    def add(self, step, terms):
        for name, value in terms.items():
            value = value.double()
            bad = torch.where(value.isfinite(), math.inf, float(step))
            last = self.state.get(
                name, torch.tensor([0, 0, math.inf], dtype=torch.float64, device=value.device)
            )
            self.state[name] = torch.stack(
                [last[0] + value, last[1] + 1, torch.minimum(last[2], bad)]
            )

    def finite(self):
        return all(bool(value[2].isinf()) for value in self.state.values())

    def read(self):
        """Means over steps and processes; ends all processes where a term was not finite."""
        values = torch.stack(list(self.state.values()))
        if world() > 1:
            everyone = [torch.empty_like(values) for _ in range(world())]
            torch.distributed.all_gather(everyone, values)
            values = torch.stack(everyone)
            values = torch.cat([values[..., :2].mean(0), values[..., 2:].min(0).values], 1)
        values = dict(zip(self.state, values.tolist(), strict=True))
        name = min(values, key=lambda name: values[name][2])
        if values[name][2] < math.inf:
            fail(
                f"Step {int(values[name][2])}: {name} is not finite. The last checkpoint is kept; a lower "
                "--learning-rate, --clip-grad or --precision fp32 may help."
            )
        self.state = {}
        return {name: total / steps for name, (total, steps, _) in values.items()}


def main(args):
    device = start(args)
    complete(args)
    if finished("backbone.pth", STAGE, args, FREE_HERE):
        return

    # ---- data
    paths = find_images(args.data)
    check_batch(len(paths), args.batch_size)
    folders, made_by = mirrors_of(args)
    data = PairDataset(
        args.data,
        paths,
        args.method,
        args.size,
        seed=args.seed,
        mix=args.mix,
        pair=args.pair,
        generated=folders,
        views=args.views,
        local_crops=args.local_crops,
        local_size=args.local_size,
        local_from=args.local_crops_from,
        store_size=args.store_size,
        on_device=device.type == "cuda",
    )
    per_epoch = len(paths) // args.batch_size
    total = args.epochs * per_epoch
    mean, std = SPECS[args.method][0]["mean"], SPECS[args.method][0]["std"]

    # ---- model
    torch.manual_seed(image_seed(args.seed, "init"))
    backbone, width = build_backbone(
        args.backbone, args.small_images, zero_init_residual=args.method in ("vicreg", "barlow")
    )  # as published
    if args.init:
        loaded = load_backbone(args.init)[0].state_dict()
        if {k: v.shape for k, v in loaded.items()} != {
            k: v.shape for k, v in backbone.state_dict().items()
        }:
            fail(
                f"--init {args.init} is not a {args.backbone}{' --small-images' * args.small_images}.",
                2,
            )
        backbone.load_state_dict(loaded)
    options = {"projector": args.projector} if args.projector else {}
    if args.method == "swav":
        options |= {"global_views": 1 + args.views}
        options |= {
            key: getattr(args, key)
            for key in ("queue", "queue_start")
            if getattr(args, key) is not None
        }
    model = build_method(args.method, backbone, width, **options).to(
        device, memory_format=torch.channels_last
    )
    if args.grad_checkpoint:
        checkpoint_stages(model.backbone)
    if world() > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = build_optimizer(args, model)
    recipe = METHODS[args.method]
    peak = peak_lr(args.learning_rate, recipe["scaling"], args.batch_size)

    out = open_run(
        args.out,
        STAGE,
        args,
        FREE_HERE,
        {"generated_by": made_by, "images": len(paths), "peak_lr": peak},
    )
    first, meter = 0, Meter()
    if saved := load_checkpoint(out):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, meter = (
            saved["step"],
            Meter({name: value.to(device) for name, value in saved["meter"].items()}),
        )
        del saved
    network = model
    if world() > 1:
        network = DistributedDataParallel(
            model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    if rank() == 0 and not first:
        print(
            f"{args.method}: {len(paths)} images, {total} steps of {args.batch_size} ({args.batch_size // world()} a "
            f"process), learning rate {peak:.4g}, mixing rate {args.mix}"
        )

    # ---- training: one pass of the loader over all the remaining steps
    loader = DataLoader(
        data,
        batch_sampler=batches(len(paths), args.batch_size, args.seed, first, total),
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if args.workers else None,
    )
    bar = progress(total * args.batch_size, args.method, first * args.batch_size)
    bar.unit = " images"
    clock, clock_step, last_saved = time.time(), first, time.time()
    for step, (crops, params, _) in enumerate(loader, first):
        epoch = step / per_epoch
        for group in optimizer.param_groups:
            group["lr"] = group["lr_scale"] * cosine_warmup(
                step,
                total,
                round(args.warmup_epochs * per_epoch),
                peak,
                start=recipe["start"] * peak,
                end=recipe["end"] * peak,
                linspace=recipe["linspace"],
            )
        crops = [
            apply_batch(x.to(device, non_blocking=True), p, mean, std)
            for x, p in zip(crops, params, strict=True)
        ]
        if step == 0 and rank() == 0:
            draw_views(out / "views.png", crops, args, mean, std)
        with autocast(device, args.precision):
            loss, terms, embedding = network(
                crops[: 1 + args.views], crops[1 + args.views :], epoch
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        if args.clip_grad:
            shrink = (args.clip_grad / (torch.stack(norms) + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, list(shrink.unbind()))
        model.before_update(epoch)
        optimizer.step()
        model.after_update((step + 1) / total)
        meter.add(step, {"loss": loss.detach(), **terms, "gradient": torch.stack(norms).norm()})

        # ---- looking and saving
        done = step + 1
        bar.update(args.batch_size)
        ends_epoch, last = done % per_epoch == 0, done == total
        if done % args.log_every == 0 or ends_epoch:
            means = meter.read()
            statistics = {name: float(value) for name, value in embedding_stats(embedding).items()}
            speed = (done - clock_step) * args.batch_size / (time.time() - clock)
            clock, clock_step = time.time(), done
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
            log(
                out,
                event="step",
                step=done,
                epoch=done / per_epoch,
                **means,
                **statistics,
                lr=optimizer.param_groups[0]["lr"],
                images_per_second=speed,
                memory_gib=memory,
            )
            bar.set_postfix(loss=f"{means['loss']:.3f}", rank=f"{statistics['effective_rank']:.0f}")
        if ends_epoch and rank() == 0:
            curves(
                out / "curves.png",
                read_log(out, "step"),
                ["loss", *terms, "embedding_std", "effective_rank"],
            )
        if args.knn and ends_epoch and (last or done // per_epoch % args.knn_every == 0):
            probe(args, model.encoder(), device, out, done // per_epoch)
        if not last and time.time() - last_saved > 60 * args.checkpoint_minutes:
            if meter.finite():  # else the next log line ends the run
                save_checkpoint(
                    out,
                    step=done,
                    model=model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    meter=meter.state,
                )
            last_saved = time.time()
    bar.close()
    if rank() == 0:
        save(
            out / "backbone.pth",
            {k: v.detach().cpu().contiguous() for k, v in model.encoder().state_dict().items()},
        )
        (out / "checkpoint.pth").unlink(missing_ok=True)
        print(f"{out / 'backbone.pth'} is written")


def probe(args, encoder, device, out, epoch):
    """kNN accuracy of the backbone as it is, on labelled images."""
    from models.features import knn_probe

    top1 = knn_probe(encoder, args.knn, args.size, device, args.precision, args.workers)
    log(out, event="knn", epoch=epoch, top1=top1)
    if rank() == 0:
        print(f"epoch {epoch}: kNN top-1 {top1:.1f} %")


def draw_views(path, crops, args, mean, std):
    """The first images of the first batch, exactly as the network gets them."""
    pixels = [
        (x[:8].float().cpu() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1))
        for x in crops
    ]
    pixels = [(x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy() for x in pixels]
    titles = ["real", *(f"partner {k + 1}" for k in range(args.views))]
    titles += [f"local {k + 1}" for k in range(args.local_crops)]
    contact_sheet(path, [list(row) for row in zip(*pixels, strict=True)], titles)


if __name__ == "__main__":
    run_main(main, args)
