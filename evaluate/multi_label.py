"""Images of several classes: average precision, and VISSL's linear SVMs for VOC2007. Used by 06.

The protocol is that of facebookresearch/vissl: svm_utils/svm_trainer.py, svm_utils/evaluate.py and
configs/config/benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml.
"""

import warnings

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from base.parallel import everyone, local_world, rank, world
from evaluate.evaluation import summary


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


def measure(guess, labels, classes, kind):
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


def of_length_one(x):
    """Rows divided by their length."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / (lengths + 1e-5)


def svm_scores(train, labels, test, costs, seed):
    """(scores (m, classes), chosen C (classes,)) of an SVM per class, on every process.

    train (n, d), test (m, d): features; each row is divided by its length. The classes are shared
    out to the processes.
    """
    train = of_length_one(train)
    test = of_length_one(test)
    present = (labels == 1).astype(np.int64)
    kinds = range(labels.shape[1])
    mine = kinds[rank() :: world()]
    jobs = max(1, joblib.cpu_count() // local_world())
    fit = joblib.delayed(support_vectors)
    each = (fit(train, present[:, kind], test, costs, seed) for kind in mine)
    fits = joblib.Parallel(jobs)(each)
    fit_of = {}
    for part in everyone(dict(zip(mine, fits, strict=True))):
        fit_of |= part
    guesses = [fit_of[kind][0] for kind in kinds]
    chosen = [fit_of[kind][1] for kind in kinds]
    return np.stack(guesses, 1), chosen
