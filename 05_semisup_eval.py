"""Stage 05: fine-tune a backbone on a share of the labels; the supervised baseline.

    python 05_semisup_eval.py --data ROOT --backbone runs/x --percent 1
    torchrun --standalone --nproc_per_node=4 05_semisup_eval.py --data ROOT --backbone runs/x \\
        --percent 10
    python 05_semisup_eval.py --data ROOT --from-scratch --percent 100 --out runs/supervised

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone (as 04_linear_eval.py). Writes
OUT/result.json, OUT/result.png and OUT/subset.txt: the training images that were used, one path
below ROOT/train a line, which --subset-file takes again (a path with line breaks is a JSON string).
The same command continues at the last finished epoch, and returns at once when the run is finished.

Without --subset-file the subset has the same number of images of each class, drawn by
--subset-seed; a class that has fewer gives all it has. For ImageNet use SimCLR's official lists
(google-research/simclr, imagenet_subsets/1percent.txt and 10percent.txt), as the published numbers
do.

Fine-tuning follows the published code of the backbone's method: SGD with momentum 0.9, no weight
decay, 20 epochs, batch 256, random-resized crops and flips. Learning rates (backbone, head):

    VICReg        1 %: 0.03, 0.08    10 %: 0.01, 0.1   cosine            (README, evaluate.py)
    Barlow Twins  1 %: 0.005, 0.5    10 %: the same    cosine            (README, evaluate.py)
    SwAV          1 %: 0.02, 5       10 %: 0.01, 0.2   x 0.2 at 12, 16   (README, eval_semisup.py)

Every other backbone is fine-tuned as VICReg's. For 100 % nothing is published: the rates of 10 %
are our choice, and so are those of Barlow Twins for 10 %. What differs from the published code:
* The result is that of the last epoch. The published code reports the best epoch on val: that
  number stands beside it as best_top1.
* An incomplete last batch of an epoch is dropped: 50 steps an epoch at 1 % of ImageNet, not 51. The
  published loaders keep it, with 11 images whose BatchNorm statistics are poor.
* BatchNorm takes its statistics over the whole batch, whatever the number of processes, as SwAV
  does. VICReg and Barlow Twins take them over the share of each GPU.
* The network computes in bf16 on GPUs that have it; --precision fp32 is as published.
* Pixels are normalised as in the backbone's pretraining; of other files by ImageNet's mean and
  standard deviation, SwAV's too (its red is divided by 0.228, not 0.229).

--from-scratch trains the whole network from random weights: the dissertation's supervised baseline
(section 5.7: 98.68 at 100 epochs, 99.20 at 1,000), which gives neither its learning rate nor its
weight decay. Ours: 0.1 x batch / 256 and 1e-4, as is usual for a ResNet, a cosine, 100 epochs.
"""

import math
from functools import partial
from pathlib import Path

from base import parallel, run, run_folder
from evaluate import evaluation

STAGE = "05_semisup_eval"
RATES = {  # protocol: {percent: (learning rate of the backbone, of the head)}
    "vicreg": {1: (0.03, 0.08), 10: (0.01, 0.1)},
    "barlow": {1: (0.005, 0.5), 10: (0.005, 0.5)},
    "swav": {1: (0.02, 5.0), 10: (0.01, 0.2)},
}
SWAV_STEPS = (12 / 20, 16 / 20)  # after these shares of its epochs SwAV multiplies its rates
SWAV_FACTOR = 0.2


def arguments(argv=None):
    p = run.parser(__doc__)
    evaluation.folder_arguments(p)
    evaluation.backbone_arguments(p, "-1percent (10, 100)", from_scratch=True)
    p.add_argument(
        "--from-scratch", action="store_true", help="no backbone: the supervised baseline"
    )
    p.add_argument(
        "--percent", type=int, default=1, choices=[1, 10, 100], help="share of the labels"
    )
    p.add_argument(
        "--subset-file",
        metavar="FILE",
        help="text file with the training images to use, a name or a path below train in each "
        "line; without it a class-balanced random subset",
    )
    p.add_argument(
        "--subset-seed",
        type=int,
        default=0,
        help="seed of that random subset; keep it when --seed changes",
    )
    p.add_argument(
        "--protocol",
        choices=sorted(RATES),
        help="whose learning rates and schedule; without it those of the backbone's method if they "
        "are published, else VICReg's",
    )
    p.add_argument(
        "--epochs",
        type=run.positive,
        help="passes over the subset; without it 20, from scratch 100",
    )
    p.add_argument(
        "--batch-size", type=run.positive, default=256, help="images a step, over all processes"
    )
    p.add_argument(
        "--learning-rate",
        type=run.from_zero,
        help="the backbone's learning rate; without it by --protocol",
    )
    p.add_argument(
        "--head-learning-rate",
        type=run.from_zero,
        help="the linear layer's learning rate; without it by --protocol",
    )
    p.add_argument(
        "--weight-decay",
        type=run.from_zero,
        help="SGD's weight decay; without it 0, from scratch 1e-4",
    )
    p.add_argument(
        "--crop-scale",
        type=run.fraction,
        nargs=2,
        default=[0.08, 1.0],
        metavar=("LOW", "HIGH"),
        help="share of the image that a training crop shows",
    )
    p.add_argument(
        "--no-flip", action="store_true", help="no mirror images: for digits and letters"
    )
    p.add_argument(
        "--eval-every",
        type=run.positive,
        default=1,
        metavar="N",
        help="epochs between two looks at --eval-on",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the head, the order and the crops")
    args = p.parse_args(argv)
    if args.from_scratch == bool(args.backbone):
        p.error("give either --backbone or --from-scratch")
    if not 0 < args.crop_scale[0] <= args.crop_scale[1]:
        p.error("--crop-scale LOW HIGH: 0 < LOW <= HIGH <= 1")
    if args.from_scratch and not args.out:
        p.error("--from-scratch needs --out")
    if not args.out:
        args.out = evaluation.default_out(args.backbone, f"{args.percent}percent")
    return args


if __name__ == "__main__":
    args = arguments()
import torch
import torch.nn.functional as F

from base.training import Meter
from evaluate import features
from evaluate.evaluation import summary
from images import labelled
from images.labelled import Split
from images.unreadable import listed
from models import resnet


# ---------------------------------------------------------------- data and network
def choose_subset(args, root, data):
    """The training images to use: those of the file, or as many of each class."""
    files, labels = data.train
    if args.subset_file:
        chosen = labelled.read_subset(args.subset_file, root, files)
        source = args.subset_file
    else:
        each = len(files)
        if args.percent < 100:
            each = round(args.percent / 100 * len(files) / len(data.classes))

        def count(_):
            return each

        mask = labelled.some_of_each(labels, count, args.subset_seed, "subset", keys=data.classes)
        chosen = mask.nonzero()[:, 0].tolist()
        source = f"{args.percent} % of {len(files)} images"
    subset = Split([files[i] for i in chosen], labels[chosen])
    empty = sorted(set(range(len(data.classes))) - set(subset.labels.tolist()))
    if empty:
        run.fail(
            f"{source} leaves {len(empty)} of {len(data.classes)} classes without an image, such "
            f"as {data.classes[empty[0]]}: take a larger share.",
            2,
        )
    return subset


def build_network(args, classes):
    """(backbone and linear layer as one module, info on the backbone)."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    if args.from_scratch:
        size = args.size or 224
        backbone, width = resnet.build_backbone(args.architecture, args.small_images, size=size)
        info = {
            "source": "from scratch",
            "architecture": args.architecture,
            "left_out": {},
            "args": {},
            "sha256": None,
        }
    else:
        backbone, width, info = resnet.load_backbone(
            args.backbone, args.architecture, args.small_images, args.seed, args.prefix
        )
    head = torch.nn.Linear(width, classes)
    torch.nn.init.normal_(head.weight, 0, 0.01)
    torch.nn.init.zeros_(head.bias)
    return torch.nn.Sequential(backbone, head), info


def fill_in(args, info):
    """Replace what was not given on the command line by its published value."""
    method = info["args"].get("method")
    args.size = args.size or info["args"].get("size") or 224
    if args.from_scratch:
        rates = (0.1 * args.batch_size / 256, 0.1 * args.batch_size / 256)
        published = {"epochs": 100, "weight_decay": 1e-4}
    else:
        if args.protocol is None:
            args.protocol = method if method in RATES else "vicreg"
        rates = RATES[args.protocol][min(args.percent, 10)]
        published = {"epochs": 20, "weight_decay": 0.0}
    published["learning_rate"], published["head_learning_rate"] = rates
    for key, value in published.items():
        if getattr(args, key) is None:
            setattr(args, key, value)


def schedule(args, epoch):
    """The share of the learning rates that holds in an epoch."""
    if args.protocol == "swav":
        passed = [step for step in SWAV_STEPS if epoch >= round(step * args.epochs)]
        return SWAV_FACTOR ** len(passed)
    return (1 + math.cos(math.pi * epoch / args.epochs)) / 2


# ---------------------------------------------------------------- the run
def main(args, device):
    run.keep_apart(args.data, out=args.out)
    data = labelled.read_splits(args.data, args.eval_on)
    root = Path(args.data) / "train"
    data = data._replace(train=choose_subset(args, root, data))
    files, labels = data.train
    run.check_batch(len(files), args.batch_size, least=2)
    model, info = build_network(args, len(data.classes))
    out = evaluation.open_run(args, STAGE, data, info)
    if out is None:
        return
    fill_in(args, info)
    if parallel.rank() == 0:
        labelled.write_subset(out / "subset.txt", root, files)

    model = model.to(device, memory_format=torch.channels_last)
    network = parallel.data_parallel(model, device)
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
    history = []
    if state := run_folder.load_checkpoint(out):
        model.load_state_dict(state["model"])
        solver.load_state_dict(state["solver"])
        history = state["history"]

    steps = len(files) // args.batch_size
    first, last = len(history) * steps, args.epochs * steps
    order = run.batches(len(files), args.batch_size, args.seed, first, last)
    crop = partial(
        features.random_crop,
        size=args.size,
        seed=args.seed,
        scale=args.crop_scale,
        flip=not args.no_flip,
    )
    batches = features.read_batches(listed(files, args, "train"), order, crop, args.workers, device)
    meter = Meter(device=device)
    scores = None
    bar = run.progress(last, "fine-tuning" if args.backbone else "training", first)
    for step, (pixels, indices) in enumerate(batches, first):
        epoch = step // steps
        if step % steps == 0:
            network.train()
        for group in solver.param_groups:
            group["lr"] = group["peak"] * schedule(args, epoch)
        y = labels[indices].to(device, non_blocking=True)
        with run.autocast(device, args.precision):
            found = network(features.normalise(pixels, device, backbone))
            loss = F.cross_entropy(found.float(), y)
        solver.zero_grad(set_to_none=True)
        loss.backward()
        solver.step()
        meter.add(step, {"loss": loss})
        bar.update()
        if (step + 1) % steps:
            continue

        # ------------------------------------------------------------ the end of an epoch
        means = meter.read()
        top1 = top5 = None
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs:
            scores, val = evaluate(args, backbone, head, data.val, device)
            top1, top5 = features.accuracy(scores, val.labels)
            bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{top1:.2f}")
        history.append([top1, top5])
        run_folder.log(out, event="epoch", epoch=epoch, **means, top1=top1, top5=top5)
        run_folder.save_checkpoint(
            out, model=model.state_dict(), solver=solver.state_dict(), history=history
        )
    bar.close()

    # ---------------------------------------------------------------- the result
    if scores is None:  # interrupted between the last checkpoint and here
        scores, val = evaluate(args, backbone, head, data.val, device)
    data = data._replace(val=val)
    top1, top5 = history[-1]
    best = max(one for one, _ in history if one is not None)
    results = {"top1": summary([top1]), "top5": summary([top5]), "best_top1": summary([best])}
    kind = "supervised from scratch" if args.from_scratch else "fine-tuned"
    title = f"{kind} on {len(files)} images"
    guesses = scores.argmax(1).cpu()
    evaluation.conclude_classes(out, args, STAGE, info, data, title, results, guesses)


def evaluate(args, backbone, head, split, device):
    """(scores (n, classes), the same on every process; the part of the split that was read)."""
    crop = partial(features.centre_crop, size=args.size)
    found, read = features.extract_split(backbone, split, "val", args, crop, device)
    with torch.no_grad():
        return F.linear(found, head.weight, head.bias), read


if __name__ == "__main__":
    run.launch(main, args)
