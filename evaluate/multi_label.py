"""Images of several classes: average precision, and VISSL's linear SVMs for VOC2007.

The protocol is that of facebookresearch/vissl: svm_utils/svm_trainer.py, svm_utils/evaluate.py and
configs/config/benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml.
"""

import warnings

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from base import run
from base.parallel import everyone, local_world, rank, world
from evaluate.evaluation import summary

FOLDS = 3


# ---------------------------------------------------------------- average precision
def average_precisions(guess, truth):
    """{"plain", "interpolated", "11point"}: average precision in 0..1 of scores (n) and labels (n).

    With the precisions and recalls at every distinct score:
    plain: the sum of precision x gained recall, as in scikit-learn.
    interpolated: the same, each precision replaced by the best one at that recall or more (VISSL).
    11point: the mean of these over the recalls 0, 0.1, ..., 1 (the rule of VOC2007).
    truth: 0 and 1. All are nan without a 1.
    """
    guess = np.asarray(guess, np.float64)
    truth = np.asarray(truth) == 1
    if not truth.any():
        return {"plain": np.nan, "interpolated": np.nan, "11point": np.nan}
    order = np.argsort(-guess, kind="stable")
    is_last = np.diff(guess[order], append=np.inf) != 0  # of each group of equal scores
    last = np.flatnonzero(is_last)
    hits = np.cumsum(truth[order])[last]
    precision = hits / (last + 1)
    recall = hits / hits[-1]
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(recall, prepend=0)
    levels = np.linspace(0, 1, 11) - 1e-9
    first = np.searchsorted(recall, levels)
    return {
        "plain": float(gained @ precision),
        "interpolated": float(gained @ best_from_here),
        "11point": float(best_from_here[first].mean()),
    }


def measure(guess, labels, classes, kind):
    """(results, {class: average precision in percent, None without an image}).

    guess (n, classes): scores. labels (n, classes): 1, 0, or -1 for what is not counted. kind: the
    average precision that "map" is the mean of; "map_11point" stands beside it. "top1" is the share
    of the images whose highest score, of the classes that are counted, is that of a present one.
    """
    rows = []
    for column in range(len(classes)):
        counted = labels[:, column] >= 0
        rows.append(average_precisions(guess[counted, column], labels[counted, column]))
    main = np.array([100 * row[kind] for row in rows])
    eleven = np.array([100 * row["11point"] for row in rows])
    some = (labels == 1).any(1)
    best = np.where(labels >= 0, guess, -np.inf)[some].argmax(1)
    correct = np.take_along_axis(labels[some], best[:, None], 1) == 1
    results = {
        "map": summary([float(np.nanmean(main))]),
        "map_11point": summary([float(np.nanmean(eleven))]),
        "top1": summary([100 * float(correct.mean())]),
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

    def fit(cost, rows):
        machine = LinearSVC(
            C=cost,
            class_weight={0: 1, 1: 2},
            loss="squared_hinge",
            intercept_scaling=1.0,
            dual=True,
            max_iter=2000,
            tol=1e-4,
            random_state=seed,
        )
        return machine.fit(train[rows], present[rows])

    folds = list(StratifiedKFold(FOLDS).split(train, present))

    def quality(cost):
        values = []
        for rows, rest in folds:
            guess = fit(cost, rows).decision_function(train[rest])
            values.append(average_precisions(guess, present[rest])["plain"])
        return np.mean(values)

    with warnings.catch_warnings():
        # The largest costs need more than VISSL's 2000 steps.
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = max(costs, key=quality)
        machine = fit(best, np.arange(len(train)))
    return machine.decision_function(test), best


def svm_scores(train, labels, test, costs, seed):
    """(scores (m, classes), chosen C (classes,)) of an SVM per class, on every process.

    train (n, d), test (m, d): features; each row is divided by its length. The classes are shared
    out to the processes.
    """
    train = train / (np.linalg.norm(train, axis=1, keepdims=True) + 1e-5)
    test = test / (np.linalg.norm(test, axis=1, keepdims=True) + 1e-5)
    present = (labels == 1).astype(np.int64)
    fewest = np.minimum(present.sum(0), (1 - present).sum(0)).min()
    if fewest < FOLDS:
        run.fail(
            f"A class has {fewest} training images, or all but {fewest}: too few for the "
            f"{FOLDS}-fold cross-validation of C."
        )
    mine = range(labels.shape[1])[rank() :: world()]
    jobs = max(1, joblib.cpu_count() // local_world())
    fits = joblib.Parallel(jobs)(
        joblib.delayed(support_vectors)(train, present[:, kind], test, costs, seed) for kind in mine
    )
    found = {}
    for part in everyone(dict(zip(mine, fits, strict=True))):
        found |= part
    guess = np.stack([found[kind][0] for kind in sorted(found)], 1)
    chosen = [found[kind][1] for kind in sorted(found)]
    return guess, chosen
