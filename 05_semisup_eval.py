"""Stage 05: fine-tune a backbone on a share of the labels; the supervised baseline.

    python 05_semisup_eval.py --data ROOT --backbone runs/x --percent 1
    torchrun --standalone --nproc_per_node=4 05_semisup_eval.py --data ROOT --backbone runs/x --percent 10
    python 05_semisup_eval.py --data ROOT --from-scratch --percent 100 --out runs/supervised

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone (as 04_linear_eval.py). Writes OUT/result.json,
OUT/result.png and OUT/subset.txt, the training images that were used, one path below ROOT/train a line, which
--subset-file takes again. The same command continues at the last finished epoch.

Without --subset-file the subset has the same number of images of each class, drawn by --subset-seed; a class that
has fewer gives all it has. For ImageNet use SimCLR's official lists (google-research/simclr,
imagenet_subsets/1percent.txt and 10percent.txt), as the published numbers do.

Fine-tuning is VICReg's (README, evaluate.py): SGD with momentum 0.9, no weight decay, a cosine per epoch, 20
epochs, batch 256, random-resized crops and flips, learning rates of backbone and head 0.03 and 0.08 at 1 %, 0.01
and 0.1 at 10 %. For 100 % nothing is published: those of 10 %, our choice. The result is that of the last epoch;
the published code reports the best on val, which stands beside it as best_top1. One deviation: BatchNorm takes
its statistics over the whole batch, whatever the number of processes (published: over each GPU's share).

--from-scratch trains the whole network from random weights: the dissertation's supervised baseline (section 5.7:
98.68 at 100 epochs, 99.20 at 1,000), which gives neither its learning rate nor its weight decay. Ours: 0.1 x batch
/ 256 and 1e-4, as is usual for a ResNet, 100 epochs.
"""

import math
from functools import partial
from pathlib import Path

from models.old_run import (
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
    run_main,
    save_checkpoint,
    seed_rng,
    start,
    world,
)

STAGE = "05_semisup_eval"
RATES = {
    1: (0.03, 0.08),
    10: (0.01, 0.1),
    100: (0.01, 0.1),
}  # of backbone and head; the last pair is ours


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument(
        "--data", required=True, help="folder with train/CLASS/images and val/CLASS/images"
    )
    p.add_argument("--backbone", metavar="PATH", help="run folder or weight file")
    p.add_argument(
        "--from-scratch", action="store_true", help="no backbone: the supervised baseline"
    )
    p.add_argument("--percent", type=int, default=1, choices=sorted(RATES), help="of the labels")
    p.add_argument(
        "--subset-file",
        metavar="FILE",
        help="text file with the training images to use, a name or a "
        "path below train a line; without it a class-balanced random subset",
    )
    p.add_argument(
        "--subset-seed",
        type=int,
        default=0,
        help="of that random subset; keep it when --seed changes",
    )
    p.add_argument(
        "--out", help="run folder; without it the backbone's name with -1percent (10, 100)"
    )
    p.add_argument(
        "--eval-on",
        default="val",
        metavar="FOLDER",
        help="sub-folder of --data to measure on; where there are both valid and test, choose on valid "
        "and report test once",
    )
    p.add_argument(
        "--size",
        type=count,
        help="side of the crops in pixels; without it that of the pretraining, or 224",
    )
    p.add_argument(
        "--architecture", default="resnet50", help="with --from-scratch: the network's name"
    )
    p.add_argument(
        "--small-images", action="store_true", help="with --from-scratch: 3x3 stem, no max-pooling"
    )
    p.add_argument("--epochs", type=count, help="without it 20, from scratch 100")
    p.add_argument(
        "--batch-size", type=count, default=256, help="images a step, over all processes"
    )
    p.add_argument(
        "--learning-rate", type=float, help="of the backbone; without it the published one"
    )
    p.add_argument(
        "--head-learning-rate", type=float, help="of the linear layer; without it the published one"
    )
    p.add_argument("--weight-decay", type=float, help="without it 0, from scratch 1e-4")
    p.add_argument(
        "--eval-every",
        type=count,
        default=1,
        metavar="N",
        help="epochs between two looks at --eval-on",
    )
    p.add_argument("--seed", type=int, default=0, help="of the head, the order and the crops")
    device_arguments(p)
    args = p.parse_args(argv)
    if args.from_scratch == bool(args.backbone):
        p.error("give either --backbone or --from-scratch")
    if args.from_scratch and not args.out:
        p.error("--from-scratch needs --out")
    rates = (0.1 * args.batch_size / 256,) * 2 if args.from_scratch else RATES[args.percent]
    published = dict(
        epochs=100 if args.from_scratch else 20,
        weight_decay=1e-4 if args.from_scratch else 0.0,
        learning_rate=rates[0],
        head_learning_rate=rates[1],
    )
    for key, value in published.items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    if not args.out:
        name = (
            args.backbone.rstrip("/")
            .removesuffix("/backbone.pth")
            .removesuffix(".pth")
            .removesuffix(".tar")
        )
        args.out = f"{name}-{args.percent}percent"
    return args


if __name__ == "__main__":
    args = arguments()
import torch
import torch.nn.functional as F
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from models.features import (
    accuracy,
    bars,
    centre_crop,
    confusion,
    extract,
    gather,
    loader,
    normalise,
    per_class,
    random_crop,
    read_splits,
    summary,
    total,
    write_result,
)
from models.resnet import build_backbone, load_backbone


class GlobalBatchNorm(torch.nn.BatchNorm2d):
    """BatchNorm over the images of all processes: SyncBatchNorm, which exists only on GPUs, for a CPU."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        n = x.numel() / x.shape[1] * world()
        mean = all_reduce(x.sum((0, 2, 3))) / n
        centred = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def synchronise(network, device):
    """The network with BatchNorm over all processes, its parameters the same objects."""
    if device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm
    return network


def choose_subset(args, root, files, labels, classes):
    """Indices of the training images to use: those of the file, or as many of each class."""
    if args.subset_file:
        try:
            wanted = {
                line.strip()
                for line in Path(args.subset_file).read_text().splitlines()
                if line.strip()
            }
        except (OSError, UnicodeDecodeError) as error:
            fail(f"--subset-file {args.subset_file} cannot be read ({error}).", 2)
        keys = [
            {Path(file).name, Path(file).relative_to(root).as_posix()} & wanted for file in files
        ]
        missing = sorted(wanted - set().union(*keys))
        if missing:
            fail(
                f"{args.subset_file}: {len(missing)} of {len(wanted)} names are not in {root}, such as "
                f"{', '.join(missing[:3])}."
            )
        chosen = [i for i, key in enumerate(keys) if key]
    elif args.percent == 100:
        chosen = list(range(len(files)))
    else:
        each, chosen = round(args.percent / 100 * len(files) / len(classes)), []
        for number in range(len(classes)):
            members = (labels == number).nonzero()[:, 0].tolist()
            order = seed_rng(args.subset_seed, "subset", classes[number]).permutation(len(members))
            chosen += [members[i] for i in order[:each]]
        chosen.sort()
    empty = sorted(set(range(len(classes))) - set(labels[chosen].tolist()))
    if empty:
        fail(
            f"{args.subset_file or f'{args.percent} % of {len(files)} images'} leaves {len(empty)} of {len(classes)} "
            f"classes without an image, such as {classes[empty[0]]}: take a larger share.",
            2,
        )
    return chosen


def main(args):
    if finished("result.json", STAGE, args):
        return
    device = start(args)

    # ------------------------------------------------------------------ data and network
    classes, (files, labels), (val_files, val_labels) = read_splits(args.data, args.eval_on)
    root = Path(args.data) / "train"
    chosen = choose_subset(args, root, files, labels, classes)
    files, labels = [files[i] for i in chosen], labels[chosen].to(device)
    check_batch(len(files), args.batch_size)
    torch.manual_seed(image_seed(args.seed, "init"))
    if args.from_scratch:
        backbone, width = build_backbone(args.architecture, args.small_images)
        info = {
            "source": "from scratch",
            "architecture": args.architecture,
            "left_out": {},
            "args": {},
            "sha256": None,
        }
    else:
        backbone, width, info = load_backbone(args.backbone)
    size, val_labels = args.size or info["args"].get("size") or 224, val_labels.to(device)
    head = torch.nn.Linear(width, len(classes))
    torch.nn.init.normal_(head.weight, 0, 0.01)
    torch.nn.init.zeros_(head.bias)
    model = torch.nn.Sequential(backbone, head).to(device, memory_format=torch.channels_last)
    network = DistributedDataParallel(synchronise(model, device)) if world() > 1 else model
    backbone, head = model
    solver = torch.optim.SGD(
        [
            {"params": backbone.parameters(), "peak": args.learning_rate},
            {"params": head.parameters(), "peak": args.head_learning_rate},
        ],
        lr=0.0,
        momentum=0.9,
        weight_decay=args.weight_decay,
    )

    # ------------------------------------------------------------------ the run
    out = open_run(args.out, STAGE, args)
    if rank() == 0:
        (out / "subset.txt").write_text(
            "".join(f"{Path(file).relative_to(root).as_posix()}\n" for file in files)
        )
    history = []
    if state := load_checkpoint(out):
        model.load_state_dict(state["model"])
        solver.load_state_dict(state["solver"])
        history = state["history"]
    steps = len(files) // args.batch_size
    first, last = len(history) * steps, args.epochs * steps
    order = list(batches(len(files), args.batch_size, args.seed, first, last))
    images_of = loader(
        files, partial(random_crop, size=size, seed=args.seed), order, args.workers, device
    )
    loss_sum, scores = torch.zeros((), dtype=torch.float64, device=device), None
    bar = progress(last, "fine-tuning" if args.backbone else "training", first)
    for step, (images, indices) in enumerate(images_of, first):
        epoch = step // steps
        if step % steps == 0:
            network.train()
        for group in solver.param_groups:
            group["lr"] = group["peak"] * (1 + math.cos(math.pi * epoch / args.epochs)) / 2
        with autocast(device, args.precision):
            loss = F.cross_entropy(
                network(normalise(images, device)).float(), labels[indices.to(device)]
            )
        solver.zero_grad(set_to_none=True)
        loss.backward()
        solver.step()
        loss_sum += loss.detach()
        bar.update()
        if (step + 1) % steps:
            continue

        # -------------------------------------------------------------- the end of an epoch
        mean_loss = (total(loss_sum) / (steps * world())).item()
        loss_sum.zero_()
        if not math.isfinite(mean_loss):
            fail(
                f"The loss is {mean_loss} in epoch {epoch}: lower --learning-rate {args.learning_rate:.4g} and "
                f"--head-learning-rate {args.head_learning_rate:.4g}."
            )
        top1 = top5 = None
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs:
            scores = evaluate(args, backbone, head, val_files, size, device)
            top1, top5 = accuracy(scores, val_labels)
            bar.set_postfix(loss=f"{mean_loss:.3f}", top1=f"{top1:.2f}")
        history.append([top1, top5])
        log(out, event="epoch", epoch=epoch, loss=mean_loss, top1=top1, top5=top5)
        save_checkpoint(out, model=model.state_dict(), solver=solver.state_dict(), history=history)
    bar.close()

    # ------------------------------------------------------------------ the result
    if scores is None:  # interrupted between the last checkpoint and here
        scores = evaluate(args, backbone, head, val_files, size, device)
    table = confusion(scores.argmax(1), val_labels, classes)
    (top1, top5), best = history[-1], max(one for one, _ in history if one is not None)
    results = {"top1": summary([top1]), "top5": summary([top5]), "best_top1": summary([best])}
    results["standard_error"] = round(math.sqrt(top1 * (100 - top1) / len(val_files)), 4)
    if rank() == 0:
        print(
            f"{'supervised from scratch' if args.from_scratch else 'fine-tuned'} on {len(files)} images: "
            f"top1 {top1:.2f}, top5 {top5:.2f} (best epoch {best:.2f}; standard error of top1 "
            f"{results['standard_error']:.2f})"
        )
        bars(out / "result.png", per_class(table), f"top-1 per class, mean {top1:.2f} %")
    write_result(
        out,
        args,
        info,
        size=size,
        results=results,
        per_class=per_class(table),
        confusion=table,
        images={"train": len(files), "val": len(val_files), "classes": len(classes)},
    )
    if rank() == 0:
        (out / "checkpoint.pth").unlink(missing_ok=True)


def evaluate(args, backbone, head, files, size, device):
    """Scores (n, classes) of the evaluation images, the same on every process."""
    features, rows = extract(
        backbone, files, partial(centre_crop, size=size), device, args.precision, args.workers
    )
    with torch.no_grad():
        return gather(
            F.linear(features.to(device), head.weight, head.bias), rows.to(device), len(files)
        )


if __name__ == "__main__":
    run_main(main, args)
