"""Stage 04: how good is a frozen backbone? One linear layer on its features, or none (--knn).

    python 04_linear_eval.py --data ROOT --backbone runs/x
    torchrun --standalone --nproc_per_node=4 04_linear_eval.py --data ROOT --backbone runs/x
    python 04_linear_eval.py --data ROOT --backbone runs/x --cache-features --knn --seeds 0 1 2
    python 04_linear_eval.py --data ROOT --backbone runs/x --cache-features --labels-per-class 1 all

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone: the run folder of 03_pretrain.py,
or a weight file of ours, of torchvision or of another trainer. Writes OUT/result.json (top-1,
top-5, per-class accuracy, confusion, all arguments, also the backbone's) and OUT/result.png. The
same command continues at the last finished epoch, and returns at once when the run is finished.

Default: the published protocol (VICReg, Barlow Twins; their evaluate.py). The backbone is frozen in
evaluation mode. The layer is trained on random-resized crops and flips with SGD, momentum 0.9, a
cosine per epoch, 100 epochs, batch 256. The validation image is a centre crop of 224 from 256 px,
resized bilinearly; for SimCLR, BYOL and DINO bicubically, as in their code, where the first two
resize the training crops so as well. What differs from the published code:
* SimCLR and BYOL train the layer with Nesterov's momentum, a cosine per step, for 90 and 80 epochs;
  BYOL and DINO do not decay its weights.
* The result is that of the last epoch. The published code reports the best epoch on val: that
  number stands beside it as best_top1.
* The frozen backbone computes in bf16 on GPUs that have it; --precision fp32 is as published.
* An incomplete last batch of an epoch is dropped; the published loaders keep it.
* Pixels are normalised as in the backbone's pretraining; of other files by ImageNet's mean and
  standard deviation, SwAV's too (its red is divided by 0.228, not 0.229).

Classes are numbered in the order of their names: 0, 1, 10, 11, 2.

The layer of a vision transformer sees the [CLS] tokens of its last four blocks side by side, as
DINO's does for ViT-S (for ViT-B it would see the last one and the mean of the patches). --knn uses
the last one.

--cache-features computes the features once, on centre crops, and fits a multinomial logistic
regression on them (standardised, L-BFGS, weight decay chosen on a stratified tenth of the training
images, never on val): minutes for ImageNet, seconds for small data. It sees no augmented crops
and need not give the published protocol's number: compare like with like. Its optimum does not
depend on the initialisation. --seeds vary only the held-out tenth, so their spread says how stable
the choice of weight decay is. The spread over pretraining runs is another matter, and so is the
standard error of a val set of this size (standard_error).

--labels-per-class N fits the same regression on N random training images of each class, --draws
times: top1 has the mean and the spread over the draws. The weight decay is then 1 / the number of
labels (C = 1 in scikit-learn), as so few labels are too few to choose it by. The features are
standardised over all training images, which needs no labels. Several N, or `all`, are measured on
features that are computed once. Each leaves the run folder that a command of its own would.

Cost: on ImageNet with ResNet-50 an epoch of the default takes about as long as reading the images.
"""

from argparse import Namespace
from functools import partial

from base import cli, parallel, run, run_folder
from evaluate import evaluation

STAGE = "04_linear_eval"
LEARNING_RATES = {"vicreg": 0.02, "simclr": 0.1, "byol": 0.2}  # at batch 256; all others 0.3
SCALED = ("simclr", "byol")  # their learning rates grow with the batch
PIXELS = 32  # side of the images of the raw-pixel baseline


def labels_of(text):
    """argparse type: a number of labels, or None for all."""
    return None if text == "all" else cli.positive(text)


def arguments(argv=None):
    p = cli.parser(__doc__)
    evaluation.folder_arguments(p)
    evaluation.backbone_arguments(p, "-linear, -cached or -Nlabels")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="one measurement each")
    p.add_argument(
        "--knn", action="store_true", help="also DINO's weighted kNN: k = 20, temperature 0.07"
    )
    g = p.add_argument_group("published protocol")
    cli.numbers(
        g,
        epochs=(cli.positive, 100, "passes over the images"),
        batch_size=(cli.positive, 256, "images a step, over all processes"),
        learning_rate=(
            cli.from_zero,
            None,
            "the layer's learning rate. Without it by method: VICReg 0.02 (its README; its code "
            "has 0.3), SimCLR 0.1, BYOL 0.2, Barlow Twins, SwAV, DINO (its ResNet-50 log) and "
            "other files 0.3; vision transformers 0.001 x batch / 256 (DINO)",
        ),
        weight_decay=(cli.from_zero, 1e-6, "the layer's weight decay"),
    )
    g = p.add_argument_group("features computed once")
    g.add_argument(
        "--cache-features",
        action="store_true",
        help="logistic regression on cached features instead",
    )
    g.add_argument(
        "--labels-per-class",
        type=labels_of,
        nargs="+",
        default=[None],
        metavar="N",
        help="labelled training images of each class, one measurement each; all: all of them, as "
        "without this flag",
    )
    g.add_argument(
        "--draws",
        type=cli.positive,
        default=10,
        help="random choices of these images, one measurement each",
    )
    g.add_argument(
        "--baselines",
        action="store_true",
        help="measure beside it: majority class, raw pixels (at most 32 x 32), colour statistics, "
        "a random network of the same kind",
    )
    args = p.parse_args(argv)
    few = any(args.labels_per_class)
    if (args.baselines or few) and not args.cache_features:
        p.error("--baselines and --labels-per-class need --cache-features")
    if few and len(args.seeds) > 1:
        p.error("--labels-per-class takes one seed: its repetitions are the --draws")
    if args.out and len(args.labels_per_class) > 1:
        p.error("--out names one folder: give one number of --labels-per-class, or no --out")
    return args


def measurements(args):
    """The arguments of each measurement, as a command of its own would have them."""
    every = []
    for labels in dict.fromkeys(args.labels_per_class):
        ending = f"{labels}labels" if labels else "cached" if args.cache_features else "linear"
        out = args.out or evaluation.default_out(args.backbone, ending)
        every.append(Namespace(**vars(args) | {"labels_per_class": labels, "out": out}))
    return every


if __name__ == "__main__":
    args = arguments()
import numpy as np
import torch
import torch.nn.functional as F

from evaluate import features, linear, sgd
from evaluate.evaluation import summary
from images import labelled
from images.unreadable import listed
from models import resnet, vit


# ---------------------------------------------------------------- the published protocol
def published(args, method, backbone, data, how):
    """(results, guesses of each seed, data) of a layer trained on random crops.

    The data that is returned has the part of val that could be read.
    """
    val, data = features.extract_val(backbone, data, how)
    device = how.device
    state = run_folder.load_checkpoint(args.out)
    done = state["done"] if state else []

    def train_layer(seed):
        """{"layer": its weight and bias, "history": see sgd.train}."""
        generator = torch.Generator().manual_seed(run.image_seed(seed, "head"))
        layer = sgd.linear_layer(val.shape[1], len(data.classes), generator).to(device)
        network = parallel.data_parallel(layer, device)

        def forward(pixels):
            return network(features.embed(backbone, pixels, device, args.precision))

        def measure():
            return layer(val).detach(), data.val

        history, _ = sgd.train(
            layer,
            forward,
            listed(data.train.files, args.max_unreadable, args.out, "train"),
            data.train.labels,
            measure,
            out=args.out,
            state=state,
            rates=[(layer, args.learning_rate)],
            schedule=partial(sgd.cosine, epochs=args.epochs),
            weight_decay=args.weight_decay,
            epochs=args.epochs,
            batch_size=args.batch_size,
            seed=seed,
            crop=partial(
                features.random_crop,
                size=args.size,
                seed=seed,
                interpolation=features.interpolation_of(method),
            ),
            workers=args.workers,
            device=device,
            what=f"seed {seed}",
            done=done,
        )
        return {"layer": layer.state_dict(), "history": history}

    for seed in args.seeds[len(done) :]:
        done.append(train_layer(seed))
    results = sgd.results_of([trained["history"] for trained in done])
    guesses = []
    for trained in done:
        weight, bias = trained["layer"].values()
        scores = F.linear(val, weight.to(device), bias.to(device))
        guesses.append(scores.argmax(1))
    if args.knn:
        train, rows = features.extract_split(backbone, data.train, "train", how)
        results |= nearest(backbone, train, rows, val, data)
    return results, guesses, data


# ---------------------------------------------------------------- features computed once
def cached(every, network, data, how, knn=False):
    """[(results, guesses of each seed or draw, data)] of logistic regressions on features of
    `network`, one for each of `measurements`; data as for `published`.
    """
    val, data = features.extract_val(network, data, how)
    train, rows = features.extract_split(network, data.train, "train", how)
    if parallel.rank() == 0:
        for args in every[1:]:
            run_folder.copy_record(how.out, args.out)
    near = nearest(network, train, rows, val, data) if knn else {}
    mean, sd = linear.standardise(train, how.device)
    val = (val - mean) / sd
    measured = []
    for args in every:
        accuracies = []
        guesses = []
        decays = []
        for W, decay in regressions(args, train, rows, data, how.device):
            scores = linear.scores(W, val)
            accuracies.append(features.accuracy(scores, data.val.labels))
            guesses.append(scores.argmax(1))
            decays.append(decay)
        top1, top5 = zip(*accuracies, strict=True)
        results = {**near, "top1": summary(top1), "top5": summary(top5), "weight_decay": decays}
        measured.append((results, guesses, data))
    return measured


def regressions(args, train, rows, data, device):
    """Yield (W, weight decay) for each seed, or for each draw of a few labels of each class.

    train (m, d): standardised features of this process's images, whose indices are rows (m,).
    """
    labels = data.train.labels
    mine = labels[rows]
    classes = len(data.classes)
    if args.labels_per_class:
        n = args.labels_per_class * classes
        for draw in range(args.draws):
            drawn = draw_labels(args, data, draw)[rows]
            yield linear.fit_few(train[drawn], mine[drawn], classes, n, device)
        return
    for seed in args.seeds:
        held = linear.held_out(labels, seed)[rows]
        yield linear.fit_linear(train, mine, classes, held, device)


def draw_labels(args, data, draw):
    """Mask of --labels-per-class training images of each class, random by (seed, draw, class)."""
    name = (args.seeds[0], "labels", draw)
    each = args.labels_per_class
    return labelled.some_of_each(data.train.labels, lambda n: each, *name, keys=data.classes)


# ---------------------------------------------------------------- baselines
class RawPixels(torch.nn.Module):
    """The pixels themselves, averaged to at most 32 x 32: (B, 3, S, S) -> (B, 3072)."""

    def forward(self, pixels):
        side = min(PIXELS, pixels.shape[2])
        return F.adaptive_avg_pool2d(pixels, side).flatten(1)


class ColourStatistics(torch.nn.Module):
    """Mean and standard deviation of each colour channel: (B, 3, S, S) -> (B, 6)."""

    def forward(self, pixels):
        pixels = pixels.flatten(2)
        return torch.cat([pixels.mean(2), pixels.std(2)], 1)


def baselines(every, backbone, data, how):
    """What the numbers must be held against, by the same protocol: [{name: results}], one for each
    of `measurements`.
    """
    majority = np.bincount(data.train.labels).argmax()
    share = (data.val.labels == majority).mean()
    measured = [{"majority class": {"top1": summary([100 * share])}} for _ in every]
    networks = {
        "raw pixels": RawPixels(),
        "colour statistics": ColourStatistics(),
        "random-init network": resnet.random_like(backbone),
    }
    for name, network in networks.items():
        found = cached(every, network, data, how)
        for beside, (results, _, _) in zip(measured, found, strict=True):
            beside[name] = results
    return measured


# ---------------------------------------------------------------- nearest neighbours
def nearest(backbone, train, rows, val, data):
    """kNN accuracies of training features, which lie spread over the processes."""
    width = backbone.inplanes  # of the last block
    train = train[:, -width:]
    val = val[:, -width:]
    labels = data.train.labels[rows]
    votes = features.knn(train, labels, val, len(data.classes))
    top1, top5 = features.accuracy(votes, data.val.labels)
    return {"knn_top1": summary([top1]), "knn_top5": summary([top5])}


def main(args, device):
    data = labelled.read_splits(args.data, args.eval_on)
    if not args.cache_features:
        run.check_batch(len(data.train.files), args.batch_size)
    counts = np.bincount(data.train.labels)
    least = counts.argmin()
    most = max(labels or 0 for labels in args.labels_per_class)
    if counts[least] < most:
        run.fail(
            f"--labels-per-class {most}: class {data.classes[least]} has only "
            f"{counts[least]} training images.",
            2,
        )
    backbone, _, info = resnet.load_backbone(
        args.backbone, args.architecture, args.small_images, args.seeds[0]
    )
    begun = []
    for one in measurements(args):
        if started := evaluation.begin(one, STAGE, data, info):
            begun.append(started)
    if not begun:
        return
    every = [one.args for one in begun]
    args = every[0]
    backbone = backbone.requires_grad_(False).to(device, memory_format=torch.channels_last)
    method = info["args"].get("method")
    transformer = isinstance(backbone, vit.VisionTransformer)
    if transformer:
        backbone.blocks = vit.LINEAR_BLOCKS
    rate = args.learning_rate
    if rate is None:
        rate = vit.LINEAR_RATE if transformer else LEARNING_RATES.get(method, 0.3)
        if transformer or method in SCALED:
            rate *= args.batch_size / 256
    crop = features.crop_of(method, args.size)
    for one in every:
        one.learning_rate = rate
        one.interpolation = crop.keywords["interpolation"]
    how = features.Settings(
        crop, device, args.precision, args.workers, args.max_unreadable, args.out
    )

    if args.cache_features:
        measured = cached(every, backbone, data, how, args.knn)
        protocol = "logistic regression"
    else:
        measured = [published(args, method, backbone, data, how)]
        protocol = "published"
    data = measured[0][-1]
    beside = [{}] * len(every)
    if args.baselines:
        beside = baselines(every, backbone, data, how)
    for one, (results, guesses, _), found in zip(begun, measured, beside, strict=True):
        if parallel.rank() == 0:
            for name, of_baseline in found.items():
                print(f"{name}: {evaluation.sentence(of_baseline)}")
        guesses = torch.cat(guesses).cpu().numpy()
        evaluation.conclude_classes(one, data, results, guesses, protocol=protocol, baselines=found)


if __name__ == "__main__":
    run.launch(main, args)
