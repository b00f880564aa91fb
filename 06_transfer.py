"""Stage 06: do the frozen features serve other data sets?

    python 06_transfer.py voc07 --data DATA --backbone runs/x
    python 06_transfer.py coco --data DATA --backbone runs/x
    torchrun --standalone --nproc_per_node=4 06_transfer.py places365 --data DATA --backbone runs/x
    python 06_transfer.py folder --data ROOT --backbone runs/x

Features are computed once; the backbone (as for 04_linear_eval.py) is not changed. Writes
OUT/result.json (numbers, per-class accuracy or average precision, all arguments) and
OUT/result.png. A finished run returns at once; an interrupted one computes its features again.

voc07      Mean average precision (mAP) on VOC2007 test, one linear SVM a class, trained on
           trainval: VISSL's protocol, which VICReg and others used. DATA holds VOCdevkit/VOC2007
           as distributed.
coco       Multi-label mAP on val, one logistic regression a class. DATA holds
           annotations/instances_train2014.json, instances_val2014.json, train2014/ and val2014/;
           the 2017 names do as well.
places365  Top-1 and top-5 on val, one linear layer. DATA holds train/CLASS and val/CLASS, or the
           lists places365_train_standard.txt and places365_val.txt
           (filelist_places365-standard.tar) beside data_256_standard/ and val_256/ or
           data_large_standard/ and val_large/.
folder     The same for any DATA/train/CLASS, DATA/val/CLASS.

The dissertation calls its VOC07 and COCO numbers "top-1". The usual measure is mAP. Both are
printed; top-1 here is the share of images whose highest-scoring class is one of their classes.

VOC07 is as in VISSL (facebookresearch/vissl: svm_utils/svm_trainer.py, svm_utils/evaluate.py and
eval_resnet_8gpu_transfer_voc07_svm.yaml): images resized to 256 and then to 224 x 224, features of
length 1, C from eleven values by the average precision of three folds, positives weighted twice,
"difficult" objects absent in training and not counted in the test. Its mAP interpolates the
precision over all points (map); the 11-point rule of 2007 stands beside it (map_11point). What
differs unless asked for:
* VISSL pools the last feature map by 6 x 6 with stride 1, which leaves 2 x 2 x 2048 features at
  224 px: --pool 6. Without it the features are those of all other evaluations, 2048.
* VISSL's SVMs have no seed; ours have --seed.
* The backbone computes in bf16 on GPUs that have it; --precision fp32 is as published.

How the layers for Places365 and COCO were trained is published nowhere. Ours is logistic regression
on centre crops, which has no learning rate and no number of epochs: L-BFGS until no element of the
gradient is above 0.2 % of the largest at the start (or 200 iterations), weight decay chosen on a
tenth of the training images. That is close to the optimum, not at it. COCO's mAP is the plain one
(not interpolated, as in scikit-learn).
"""

from functools import partial

from base import cli, run
from evaluate import evaluation
from images.labelled import SETS

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)  # VISSL's


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="dataset", required=True, metavar=" | ".join(SETS))
    for name, data_set in SETS.items():
        c = cli.subparser(commands, name, data_set.sentence)
        c.add_argument("--data", required=True, help="folder of the data set")
        evaluation.backbone_arguments(c, f"-{name}")
        c.add_argument(
            "--seed", type=int, default=0, help="seed of the held-out images and of the SVMs"
        )
        if data_set.svm:
            c.add_argument(
                "--pool",
                type=cli.positive,
                help="side of the average pooling of the last feature map, with stride 1; 6 is "
                "VISSL's for 224 px. Without it the mean over the whole map",
            )
    args = p.parse_args(argv)
    if not args.out:
        args.out = evaluation.default_out(args.backbone, args.dataset)
    return args


if __name__ == "__main__":
    args = arguments()
import warnings

import joblib
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from base.parallel import local_world, rank, union, world
from evaluate import features, linear
from evaluate.evaluation import summary
from models import resnet


def pool(backbone, side, size):
    """Replace the backbone's global pooling by windows of side x side with stride 1."""
    if not hasattr(backbone, "avgpool"):
        run.fail("--pool is for ResNets: a vision transformer has no pooling. Leave it out.", 2)
    backbone.avgpool = torch.nn.AvgPool2d(side, stride=1)
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, size, size))
    except RuntimeError:
        run.fail(f"--pool {side} is larger than the last feature map of a {size} px image.", 2)


# ---------------------------------------------------------------- average precision
def average_precisions(guess, truth):
    """{"plain", "interpolated", "11point"}: average precision in 0..1 of scores (n) and labels (n).

    With the precisions and recalls at every distinct score:
    plain: the sum of precision x gained recall, as in scikit-learn.
    interpolated: the same, each precision replaced by the best one at that recall or more (VISSL).
    11point: the mean of these over the recalls 0, 0.1, ..., 1 (the rule of VOC2007).
    truth: 0 and 1. All are nan without a 1.
    """
    if not np.any(truth):
        return dict.fromkeys(("plain", "interpolated", "11point"), np.nan)
    precision, recall, _ = precision_recall_curve(truth, guess)  # recall falls from 1 to 0
    gained = -np.diff(recall)
    precision, recall = precision[:-1], recall[:-1]
    best = np.maximum.accumulate(precision)
    levels = np.linspace(0, 1, 11) - 1e-9
    at_levels = [best[recall >= level].max() for level in levels]
    return {
        "plain": float(gained @ precision),
        "interpolated": float(gained @ best),
        "11point": float(np.mean(at_levels)),
    }


def average_results(guess, labels, classes, kind):
    """(results, {class: average precision in percent, None without an image}).

    guess (n, classes): scores. labels (n, classes): 1, 0, or -1 for what is not counted. kind: the
    average precision that "map" is the mean of; "map_11point" stands beside it. "top1" is the share
    of the images whose highest score, of the classes that are counted, is that of a present one.
    """
    main = []
    eleven = []
    for scores, present in zip(guess.T, labels.T, strict=True):
        counted = present >= 0
        found = average_precisions(scores[counted], present[counted])
        main.append(100 * found[kind])
        eleven.append(100 * found["11point"])
    some = (labels == 1).any(1)
    best = np.where(labels >= 0, guess, -np.inf).argmax(1)
    correct = labels[some, best[some]] == 1
    results = {
        "map": summary([np.nanmean(main)]),
        "map_11point": summary([np.nanmean(eleven)]),
        "top1": summary([100 * correct.mean()]),
    }
    by_class = {}
    for name, value in zip(classes, main, strict=True):
        by_class[name] = None if np.isnan(value) else round(float(value), 4)
    return results, by_class


# ---------------------------------------------------------------- linear SVMs
def support_vectors(train, present, test, costs, seed):
    """(scores (m,) of the test rows, chosen C) of one class.

    C is the one with the best average precision, the mean over three folds in the order of the
    images. present (n,): 0 and 1; a difficult image counts as 0 here. One thread of a process at a
    time: liblinear has one random generator for all, and warning filters are of the process too.
    """
    machine = LinearSVC(
        class_weight={0: 1, 1: 2},
        loss="squared_hinge",
        intercept_scaling=1.0,
        dual=True,
        max_iter=2000,
        tol=1e-4,
        random_state=seed % 2**32,
    )
    search = GridSearchCV(machine, {"C": costs}, scoring="average_precision", cv=3)
    with warnings.catch_warnings():
        # The largest costs need more than VISSL's 2000 steps.
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(train, present)
    return search.decision_function(test), search.best_params_["C"]


# ---------------------------------------------------------------- classifiers
def vissl_machines(args, x, rows, test, data, device):
    """(scores float64 (n, classes) of the test images, {"svm_c": the C of each class}), on every
    process: VISSL's SVMs.

    x (m, d): features of the training images `rows`; test (n, d): of the test images. The classes
    are shared out to the processes.
    """
    of_length_one = [part / (part.norm(dim=1, keepdim=True) + 1e-5) for part in (x, test)]
    train, test = [part.cpu().numpy() for part in of_length_one]
    present = (data.train.labels[rows] == 1).astype(np.int64)
    of_class = dict(zip(data.classes, present.T, strict=True))
    mine = data.classes[rank() :: world()]
    jobs = max(1, joblib.cpu_count() // local_world())
    fit = joblib.delayed(support_vectors)
    each = (fit(train, of_class[name], test, COSTS, args.seed) for name in mine)
    fits = joblib.Parallel(jobs)(each)
    fit_of = union(dict(zip(mine, fits, strict=True)))
    scores = [fit_of[name][0] for name in data.classes]
    chosen = {name: fit_of[name][1] for name in data.classes}
    return torch.from_numpy(np.stack(scores, 1)), {"svm_c": chosen}


def regression(args, x, rows, test, data, device):
    """The same of a logistic regression: (scores, {"weight_decay": the chosen one}). x: of this
    process's images.
    """
    mean, sd = linear.standardise(x, device)
    labels = groups = data.train.labels
    if labels.ndim == 2:
        labels = labels.astype(np.float32)
        groups = np.zeros(len(labels))  # the held-out tenth is then not stratified
    held = linear.held_out(groups, args.seed)[rows]
    classes = len(data.classes)
    W, decay = linear.fit_linear(x, labels[rows], classes, held, device)
    scores = linear.scores(W, (test - mean) / sd)
    return scores.cpu(), {"weight_decay": decay}


# ---------------------------------------------------------------- the run
def main(args, device):
    data_set = SETS[args.dataset]
    data = data_set.read(args.data)
    backbone, _, info = resnet.load_backbone(
        args.backbone, args.architecture, args.small_images, args.seed
    )
    if data_set.svm and args.pool:
        pool(backbone, args.pool, args.size or info["args"].get("size") or 224)
    begun = evaluation.begin(args, f"06_transfer {args.dataset}", data, info)
    if begun is None:
        return
    svm = data_set.svm
    classify = vissl_machines if svm else regression
    crop = features.squash if svm else features.centre_crop
    how = features.Settings(
        partial(crop, size=args.size),
        device,
        args.precision,
        args.workers,
        args.max_unreadable,
        args.out,
    )
    test, data = features.extract_val(backbone, data, how)
    # Each process fits some of the machines.
    x, rows = features.extract_split(backbone, data.train, "train", how, everywhere=svm)
    scores, chosen = classify(args, x, rows, test, data, device)

    # ---------------------------------------------------------------- the result
    if data.val.labels.ndim == 1:
        top1, top5 = features.accuracy(scores, data.val.labels)
        results = {"top1": summary([top1]), "top5": summary([top5])}
        guesses = scores.argmax(1).numpy()
        evaluation.conclude_classes(begun, data, results, guesses, **chosen)
        return
    kind = "interpolated" if svm else "plain"
    scores = scores.numpy()
    results, by_class = average_results(scores, data.val.labels, data.classes, kind)
    chosen["average_precision"] = by_class
    evaluation.conclude(begun, data, results, by_class, "average precision", **chosen)


if __name__ == "__main__":
    run.launch(main, args)
