"""Stage 04: how good is a frozen backbone? One linear layer on its features, or none (--knn).

    python 04_linear_eval.py --data ROOT --backbone runs/x
    torchrun --standalone --nproc_per_node=4 04_linear_eval.py --data ROOT --backbone runs/x
    python 04_linear_eval.py --data ROOT --backbone runs/x --cache-features --knn --seeds 0 1 2
    python 04_linear_eval.py --data ROOT --backbone runs/x --cache-features --labels-per-class 10

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone: the run folder of 03_pretrain.py,
or a weight file of ours, of torchvision or of another trainer. Writes OUT/result.json (top-1,
top-5, per-class accuracy, confusion, all arguments, also the backbone's) and OUT/result.png. The
same command continues at the last finished epoch, and returns at once when the run is finished.

Default: the published protocol (VICReg, Barlow Twins; their evaluate.py). The backbone is frozen in
evaluation mode. The layer is trained on random-resized crops and flips with SGD, momentum 0.9, a
cosine per epoch, 100 epochs, batch 256. The validation image is a centre crop of 224 from 256 px,
resized bilinearly, for DINO bicubically (its eval_linear.py). What differs from the published code:
* The result is that of the last epoch. The published code reports the best epoch on val: that
  number stands beside it as best_top1.
* The frozen backbone computes in bf16 on GPUs that have it; --precision fp32 is as published.
* An incomplete last batch of an epoch is dropped; the published loaders keep it.
* Pixels are normalised as in the backbone's pretraining; of other files by ImageNet's mean and
  standard deviation, SwAV's too (its red is divided by 0.228, not 0.229).

The layer of a vision transformer sees the [CLS] tokens of its last four blocks side by side, as
DINO's does for ViT-S (for ViT-B it would see the last one and the mean of the patches). --knn uses
the last one.

--cache-features computes the features once, on centre crops, and fits a multinomial logistic
regression on them (standardised, L-BFGS, weight decay chosen on a stratified tenth of the training
images, never on val): minutes for ImageNet, seconds for small data. It sees no augmented crops (but
see --cache-crops) and need not give the published protocol's number: compare like with like. Its
optimum does not depend on the initialisation. --seeds vary only the held-out tenth, so their spread
says how stable the choice of weight decay is. The spread over pretraining runs is another matter,
and so is the standard error of a val set of this size, which is printed.

--labels-per-class N fits the same regression on N random training images of each class, --draws
times: top1 has the mean and the spread over the draws. The weight decay is then 1 / the number of
labels (C = 1 in scikit-learn), as so few labels are too few to choose it by. The features are
standardised over all training images, which needs no labels.

Cost: on ImageNet with ResNet-50 an epoch of the default takes about as long as reading the images.
"""

import math
from functools import partial

from base import parallel, run, run_folder
from evaluate import evaluation

STAGE = "04_linear_eval"
LEARNING_RATES = {"vicreg": 0.02, "simclr": 0.1, "byol": 0.2}  # at batch 256; all others 0.3
SCALED = ("simclr", "byol")  # their learning rates grow with the batch
PIXELS = 32  # side of the images of the raw-pixel baseline


def arguments(argv=None):
    p = run.parser(__doc__)
    evaluation.folder_arguments(p)
    evaluation.backbone_arguments(p, "-linear, -cached or -Nlabels")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="one measurement each")
    p.add_argument(
        "--knn", action="store_true", help="also DINO's weighted kNN: k = 20, temperature 0.07"
    )
    g = p.add_argument_group("published protocol")
    g.add_argument("--epochs", type=run.positive, default=100, help="passes over the images")
    g.add_argument(
        "--batch-size", type=run.positive, default=256, help="images a step, over all processes"
    )
    g.add_argument(
        "--learning-rate",
        type=run.from_zero,
        help="the layer's learning rate. Without it by method: VICReg 0.02 (its README; its code's "
        "default is 0.3), SimCLR 0.1, BYOL 0.2, Barlow Twins, SwAV, DINO (its ResNet-50 log) and "
        "other files 0.3; vision transformers 0.001 x batch / 256 (DINO)",
    )
    g.add_argument(
        "--weight-decay", type=run.from_zero, default=1e-6, help="the layer's weight decay"
    )
    g = p.add_argument_group("features computed once")
    g.add_argument(
        "--cache-features",
        action="store_true",
        help="logistic regression on cached features instead",
    )
    g.add_argument(
        "--cache-crops",
        type=run.positive,
        default=1,
        metavar="N",
        help="1: the centre crop of each training image; N: and N - 1 random crops; costs N times "
        "as much",
    )
    g.add_argument(
        "--labels-per-class",
        type=run.positive,
        metavar="N",
        help="labelled training images of each class; without it all",
    )
    g.add_argument(
        "--draws",
        type=run.positive,
        default=10,
        metavar="K",
        help="random choices of these images, one measurement each",
    )
    g.add_argument(
        "--baselines",
        action="store_true",
        help="measure beside it: majority class, raw pixels (at most 32 x 32), colour statistics, "
        "a random network of the same kind",
    )
    args = p.parse_args(argv)
    if args.baselines and not args.cache_features:
        p.error("--baselines are fitted on cached features: add --cache-features")
    if args.labels_per_class and not args.cache_features:
        p.error("--labels-per-class is fitted on cached features: add --cache-features")
    if args.labels_per_class and len(args.seeds) > 1:
        p.error("--labels-per-class takes one seed: its repetitions are the --draws")
    if not args.out:
        ending = "linear"
        if args.labels_per_class:
            ending = f"{args.labels_per_class}labels"
        elif args.cache_features:
            ending = "cached"
        args.out = evaluation.default_out(args.backbone, ending)
    return args


if __name__ == "__main__":
    args = arguments()
import torch
import torch.nn.functional as F

from base.training import Meter
from evaluate import features, linear
from evaluate.evaluation import summary
from images import labelled
from images.unreadable import listed
from models import resnet, vit


# ---------------------------------------------------------------- the published protocol
def published(args, out, backbone, data, crop, device):
    """(results, guesses of each seed, data) of a layer trained on random crops.

    The data that is returned has the part of val that could be read.
    """
    val, data = val_features(args, backbone, data, crop, device)
    state = run_folder.load_checkpoint(out)
    done = state["done"] if state else []
    for seed in args.seeds[len(done) :]:
        if state and state["seed"] != seed:
            state = None
        done.append(train_layer(args, out, backbone, data, val, seed, done, state, device))
    last = [one["history"][-1] for one in done]
    best = [max(top1 for top1, _ in one["history"]) for one in done]
    results = {
        "top1": summary([top1 for top1, _ in last]),
        "top5": summary([top5 for _, top5 in last]),
        "best_top1": summary(best),
    }
    guesses = []
    for one in done:
        weight, bias = (tensor.to(device) for tensor in one["layer"])
        guesses.append(F.linear(val, weight, bias).argmax(1))
    if args.knn:
        files = listed(data.train.files, args, "train")
        train, rows = features.extract(backbone, files, crop, device, args.precision, args.workers)
        results |= nearest(backbone, train, rows, val, data)
    return results, guesses, data


def train_layer(args, out, backbone, data, val, seed, done, state, device):
    """Train the layer for one seed, from the checkpoint `state` on.

    val: features of the evaluation images. done: what earlier seeds have returned. Returns "layer"
    (weight, bias) and "history", a (top-1, top-5) for each epoch.
    """
    files, labels = data.train
    generator = torch.Generator().manual_seed(run.image_seed(seed, "head"))
    weight = torch.empty(len(data.classes), val.shape[1])
    weight.normal_(0, 0.01, generator=generator)
    bias = torch.zeros(len(data.classes))
    layer = [weight.to(device).requires_grad_(), bias.to(device).requires_grad_()]
    solver = torch.optim.SGD(
        layer, lr=args.learning_rate, momentum=0.9, weight_decay=args.weight_decay
    )
    history = []
    if state:
        for tensor, saved in zip(layer, state["layer"], strict=True):
            tensor.data.copy_(saved)
        solver.load_state_dict(state["solver"])
        history = state["history"]

    steps = len(files) // args.batch_size
    first, last = len(history) * steps, args.epochs * steps
    order = run.batches(len(files), args.batch_size, seed, first, last)
    crop = partial(features.random_crop, size=args.size, seed=seed)
    batches = features.read_batches(listed(files, args, "train"), order, crop, args.workers, device)
    meter = Meter(device=device)
    with run.progress(last, f"seed {seed}", first) as bar:
        for step, (pixels, indices) in enumerate(batches, first):
            epoch = step // steps
            cosine = (1 + math.cos(math.pi * epoch / args.epochs)) / 2
            solver.param_groups[0]["lr"] = args.learning_rate * cosine
            x = features.embed(backbone, pixels, device, args.precision)
            y = labels[indices].to(device, non_blocking=True)
            loss = F.cross_entropy(F.linear(x, *layer), y, reduction="sum")
            gradients = torch.autograd.grad(loss / args.batch_size, layer)
            for tensor, gradient in zip(layer, gradients, strict=True):
                tensor.grad = parallel.all_sum(gradient)
            solver.step()
            meter.add(step, {"loss": loss.double() / len(y)})
            bar.update()
            if (step + 1) % steps:
                continue

            means = meter.read()
            scores = F.linear(val, *layer).detach()
            top1, top5 = features.accuracy(scores, data.val.labels)
            history.append([top1, top5])
            bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{top1:.2f}")
            run_folder.log(
                out, event="epoch", seed=seed, epoch=epoch, **means, top1=top1, top5=top5
            )
            run_folder.save_checkpoint(
                out,
                done=done,
                seed=seed,
                layer=[tensor.detach().cpu() for tensor in layer],
                solver=solver.state_dict(),
                history=history,
            )
    return {"layer": [tensor.detach().cpu() for tensor in layer], "history": history}


# ---------------------------------------------------------------- features computed once
def cached(args, network, data, crop, device, knn=False):
    """(results, guesses of each seed or draw, data) of logistic regressions on features of
    `network`; data as for `published`.
    """
    val, data = val_features(args, network, data, crop, device)
    crops = partial(features.centre_then_random, size=args.size, interpolation=args.interpolation)
    train, rows = features.extract(
        network,
        listed(data.train.files, args, "train"),
        crops,
        device,
        args.precision,
        args.workers,
        passes=args.cache_crops,
        what="train features",
    )
    results = {}
    if knn:
        centre = len(rows) // args.cache_crops  # the first pass
        results = nearest(network, train[:centre], rows[:centre], val, data)
    mean, sd = linear.standardise(train, device)
    val = (val - mean) / sd
    if args.labels_per_class:
        fits = fit_draws(args, train, rows, data, device)
    else:
        fits = fit_seeds(args, train, rows, data, device)
    accuracies, guesses, decays = [], [], []
    for W, decay in fits:
        scores = linear.scores(W, val)
        accuracies.append(features.accuracy(scores, data.val.labels))
        guesses.append(scores.argmax(1))
        decays.append(decay)
    results["top1"] = summary([top1 for top1, _ in accuracies])
    results["top5"] = summary([top5 for _, top5 in accuracies])
    results["weight_decay"] = decays
    return results, guesses, data


def fit_seeds(args, train, rows, data, device):
    """Yield (W, weight decay) for each seed: all labels, the decay chosen on a held-out tenth."""
    labels = data.train.labels[rows].to(train.device)
    for seed in args.seeds:
        held = linear.held_out(data.train.labels, seed)[rows].to(train.device)
        W, decay, _ = linear.fit_linear(train, labels, len(data.classes), held, device)
        yield W, decay


def fit_draws(args, train, rows, data, device):
    """Yield (W, weight decay) for each draw of a few labels of each class."""
    n = args.labels_per_class * len(data.classes) * args.cache_crops
    for draw in range(args.draws):
        drawn = draw_labels(args, data, draw)[rows].nonzero()[:, 0]
        x = train[drawn.to(train.device)]
        labels = data.train.labels[rows[drawn]].to(train.device)
        yield linear.fit_few(x, labels, len(data.classes), n, device)


def draw_labels(args, data, draw):
    """Mask of --labels-per-class training images of each class, random by (seed, draw, class)."""

    def count(_):
        return args.labels_per_class

    name = ("labels", draw)
    return labelled.some_of_each(data.train.labels, count, args.seeds[0], *name, keys=data.classes)


# ---------------------------------------------------------------- baselines
class RawPixels(torch.nn.Module):
    """The pixels themselves, averaged to at most 32 x 32: (B, 3, S, S) -> (B, 3072)."""

    def forward(self, pixels):
        side = min(PIXELS, pixels.shape[2])
        return F.adaptive_avg_pool2d(pixels, side).flatten(1)


class ColourStatistics(torch.nn.Module):
    """Mean and standard deviation of each colour channel: (B, 3, S, S) -> (B, 6)."""

    def forward(self, pixels):
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], 1)


def baselines(args, backbone, data, crop, device):
    """What the numbers must be held against, by the same protocol: {name: results}."""
    majority = data.train.labels.mode().values
    share = (data.val.labels == majority).double().mean().item()
    found = {"majority class": {"top1": summary([100 * share])}}
    networks = {
        "raw pixels": RawPixels(),
        "colour statistics": ColourStatistics(),
        "random-init network": resnet.random_like(backbone),
    }
    for name, network in networks.items():
        found[name], _, _ = cached(args, network, data, crop, device)
    return found


# ---------------------------------------------------------------- both protocols
def val_features(args, network, data, crop, device):
    """(features of the images of val that can be read, the data with these alone in val)."""
    val, read = features.extract_split(
        network, data.val, "val", args, crop, device, what="val features"
    )
    return val, data._replace(val=read)


def nearest(backbone, train, rows, val, data):
    """kNN accuracies of training features, which lie spread over the processes."""
    train, val = train[:, -backbone.inplanes :], val[:, -backbone.inplanes :]
    votes = features.knn(train, data.train.labels[rows], val, len(data.classes))
    top1, top5 = features.accuracy(votes, data.val.labels)
    return {"knn_top1": summary([top1]), "knn_top5": summary([top5])}


def check_labels(args, data):
    """End the run if a class has fewer training images than --labels-per-class."""
    counts = data.train.labels.bincount(minlength=len(data.classes))
    least = counts.argmin()
    if counts[least] < args.labels_per_class:
        run.fail(
            f"--labels-per-class {args.labels_per_class}: class {data.classes[least]} has only "
            f"{counts[least]} training images.",
            2,
        )


def main(args, device):
    run.keep_apart(args.data, out=args.out)
    data = labelled.read_splits(args.data, args.eval_on)
    if not args.cache_features:
        run.check_batch(len(data.train.files), args.batch_size)
    if args.labels_per_class:
        check_labels(args, data)
    backbone, _, info = resnet.load_backbone(
        args.backbone, args.architecture, args.small_images, args.seeds[0], args.prefix
    )
    out = evaluation.open_run(args, STAGE, data, info)
    if out is None:
        return
    backbone = backbone.requires_grad_(False).to(device, memory_format=torch.channels_last)
    method = info["args"].get("method")
    args.size = args.size or info["args"].get("size") or 224
    transformer = isinstance(backbone, vit.VisionTransformer)
    if transformer:
        backbone.blocks = vit.LINEAR_BLOCKS
    if args.learning_rate is None:
        args.learning_rate = vit.LINEAR_RATE if transformer else LEARNING_RATES.get(method, 0.3)
        if transformer or method in SCALED:
            args.learning_rate *= args.batch_size / 256
    args.interpolation = "bicubic" if method == "dino" else "bilinear"
    crop = partial(features.centre_crop, size=args.size, interpolation=args.interpolation)

    if args.cache_features:
        results, guesses, data = cached(args, backbone, data, crop, device, args.knn)
        protocol = "logistic regression"
    else:
        results, guesses, data = published(args, out, backbone, data, crop, device)
        protocol = "published"
    beside = {}
    if args.baselines:
        beside = baselines(args, backbone, data, crop, device)
    if parallel.rank() == 0:
        for name, found in beside.items():
            print(f"{name}: {evaluation.sentence(found)}")
    evaluation.conclude_classes(
        out,
        args,
        STAGE,
        info,
        data,
        "this backbone",
        results,
        torch.cat(guesses).cpu(),
        protocol=protocol,
        baselines=beside,
    )


if __name__ == "__main__":
    run.launch(main, args)
