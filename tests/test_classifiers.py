"""Logistic regression, kNN, SVMs, average precision, against other computations."""

import importlib
from argparse import Namespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from evaluate import features, linear
from evaluate.evaluation import confusion, per_class, summary
from evaluate.features import accuracy, knn
from evaluate.linear import DECAYS, fit_linear, held_out, logistic_regression, scores, standardise
from images.labelled import Labelled, Split

CPU = torch.device("cpu")
transfer = importlib.import_module("06_transfer")


def noisy_classes(n, width=40, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9)) * 0.5
    labels = torch.randint(classes, (n,), generator=g)
    return (centres[labels] + torch.randn(n, width, generator=g)).relu(), labels


def test_logistic_regression_is_scikit_learns():
    (x, y), (new, new_y) = noisy_classes(1500), noisy_classes(3000, seed=1)
    mean, sd = standardise(x, CPU)
    assert x.mean(0).abs().max() < 1e-5 and (x.std(0, correction=0) - 1).abs().max() < 1e-5
    new = (new - mean) / sd
    start = torch.zeros(5, 41, dtype=torch.float64)

    def scikit(decay, y, **more):
        return LogisticRegression(C=1 / (decay * len(x)), max_iter=1000, **more).fit(x.numpy(), y)

    for decay in (1e-1, 1e-2, 1e-4):
        W = logistic_regression(x, y, torch.ones(len(x)), decay, start.clone(), 1e-5)
        theirs = scikit(decay, y.numpy(), tol=1e-6)
        ours = accuracy(scores(W, new), new_y)[0]
        assert abs(ours - 100 * theirs.score(new.numpy(), new_y.numpy())) <= 0.2
        assert np.abs(W[:, :-1].numpy() - theirs.coef_).max() < 0.02 * np.abs(theirs.coef_).max()
    mask = held_out(y, 0)
    W, best = fit_linear(x, y, 5, mask, CPU)

    def loss(decay):
        model = LogisticRegression(C=1 / (decay * (~mask).sum()), max_iter=1000)
        return log_loss(y[mask], model.fit(x[~mask], y[~mask]).predict_proba(x[mask]))

    assert best == min(DECAYS, key=loss)
    official = 100 * scikit(best, y.numpy()).score(new.numpy(), new_y.numpy())
    assert abs(accuracy(scores(W, new), new_y)[0] - official) <= 0.2
    several = torch.nn.functional.one_hot(y, 5).float()  # one-versus-rest
    W = logistic_regression(x, several, torch.ones(len(x)), 1e-2, start.clone(), 1e-6)
    theirs = scikit(1e-2, (y == 2).numpy())
    assert np.abs(W[2, :-1].numpy() - theirs.coef_[0]).max() < 0.02 * np.abs(theirs.coef_).max()
    (x, y), (new, _) = noisy_classes(50), noisy_classes(2000, seed=1)
    mean, sd = standardise(x, CPU)
    W, decay = linear.fit_few(x, y, 5, len(x), CPU)
    theirs = LogisticRegression(C=1.0, max_iter=1000, tol=1e-6).fit(x.numpy(), y.numpy())
    assert decay == 1 / 50
    guesses = scores(W, (new - mean) / sd).argmax(1).numpy()
    assert (guesses == theirs.predict(((new - mean) / sd).numpy())).mean() > 0.99
    assert np.abs(W[:, :-1].numpy() - theirs.coef_).max() < 0.02 * np.abs(theirs.coef_).max()


def test_separable_shuffled_and_held_out():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.eye(3)[y] * 8 + torch.randn(300, 3, generator=g)
    standardise(x, CPU)
    W, _ = fit_linear(x[:200], y[:200], 3, held_out(y[:200], 0), CPU)
    assert accuracy(scores(W, x[200:]), y[200:])[0] == 100
    (x, _), y = noisy_classes(2000), torch.randint(5, (2000,), generator=g)
    standardise(x, CPU)
    W, _ = fit_linear(x[:1000], y[:1000], 5, held_out(y[:1000], 0), CPU)
    assert abs(accuracy(scores(W, x[1000:]), y[1000:])[0] - 20) < 5
    labels = np.repeat([0, 1, 2, 3], [100, 20, 2, 1])
    mask = held_out(labels, 0)
    assert [int(mask[labels == k].sum()) for k in range(4)] == [10, 2, 1, 0]
    assert np.array_equal(mask, held_out(labels, 0))
    assert not np.array_equal(mask, held_out(labels, 1))


def test_knn_against_a_loop(monkeypatch):
    (x, y), (new, _) = noisy_classes(60), noisy_classes(7, seed=1)
    votes = knn(x, y, new, 5, k=4)
    for vector, vote in zip(new, votes, strict=True):
        cosines = torch.nn.functional.cosine_similarity(vector[None], x)
        expected = torch.zeros(5)
        for i in cosines.argsort(descending=True)[:4]:
            expected[y[i]] += torch.exp(cosines[i] / 0.07)
        torch.testing.assert_close(vote, expected, rtol=1e-3, atol=1e-3)
    few = knn(x[:3], y[:3], new, 5)  # fewer images than neighbours
    torch.testing.assert_close(few, knn(x[:3], y[:3], new, 5, k=3))
    # The products are cut to a size that fits; where they are cut changes nothing.
    (x, y), (new, _) = noisy_classes(60), noisy_classes(17, seed=1)
    whole = knn(x, y, new, 5)
    monkeypatch.setattr(features, "TRAIN_ROWS", 7)
    torch.testing.assert_close(knn(x, y, new, 5), whole, rtol=1e-5, atol=1e-5)


def test_accuracy_confusion_summary():
    guess = torch.tensor([[3.0, 2, 1], [1, 2, 3], [2, 3, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 1, 2])
    assert accuracy(guess, labels) == [50, 100]
    table = confusion(guess.argmax(1).numpy(), labels.numpy(), ["a", "b", "c"])
    assert table == {"a": {"a": 1}, "b": {"b": 1, "c": 1}, "c": {"a": 1}}
    assert per_class(table) == {"a": 100, "b": 50, "c": 0}
    assert summary([1.0, 3.0]) == {"mean": 2.0, "sd": 1.4142, "values": [1.0, 3.0]}
    assert summary([1.0])["sd"] == 0


def vissls(guess, truth):
    """The area under the precision, each replaced by the best at that recall or more: a loop."""
    order = np.argsort(-guess)
    points = []
    for n in range(1, len(order) + 1):
        hits = truth[order[:n]].sum()
        points.append((hits / truth.sum(), hits / n))
    area = last = 0.0
    for recall, _ in points:
        best = max(precision for other, precision in points if other >= recall)
        area += (recall - last) * best
        last = recall
    return area


def test_average_precision():
    # ranks of the two positives 1 and 3: precisions 1 and 2/3, recalls 1/2 and 1
    found = transfer.average_precisions([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
    assert found["plain"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["11point"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    equal = transfer.average_precisions([0.5, 0.5, 0.5], [1, 0, 0])
    assert list(equal.values()) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert all(map(np.isnan, transfer.average_precisions([0.5, 0.1], [0, 0]).values()))
    rng = np.random.default_rng(0)
    for _ in range(20):
        guess, truth = rng.integers(0, 15, 60) / 3, rng.random(60) < 0.3
        found = transfer.average_precisions(guess, truth)
        assert found["plain"] == pytest.approx(average_precision_score(truth, guess))
        guess = rng.random(60)
        found = transfer.average_precisions(guess, truth)
        assert found["interpolated"] == pytest.approx(vissls(guess, truth))
        assert found["interpolated"] >= found["plain"]
    # -1 is not counted: neither in the precision nor for top-1
    guess = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7]])
    labels = np.array([[-1, 1], [1, 0], [0, 1]])
    results, by_class = transfer.average_results(guess, labels, ["a", "b"], "plain")
    assert by_class["a"] == 100 and by_class["b"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-3)
    assert results["top1"]["mean"] == 100
    results, by_class = transfer.average_results(guess, labels, ["a", "b"], "interpolated")
    assert by_class["b"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-3)


def test_svms_are_vissls(monkeypatch):
    """The procedure of its svm_trainer.py: C by cross_val_score, difficult images as negatives."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 8)), rng.normal(size=(20, 8))
    labels = (train[:, :2] + rng.normal(size=(60, 2)) > 0.5).astype(np.int64)
    labels[:3, 0] = -1
    costs = [0.01, 1.0, 1000.0]  # at the last one 2,000 steps are too few: it needs its seed
    monkeypatch.setattr(transfer, "COSTS", costs)
    data = Labelled(["a", "b"], Split([], labels), None)
    inputs = torch.from_numpy(train), range(60), torch.from_numpy(test), data, CPU
    guess, chosen = transfer.vissl_machines(Namespace(seed=0), *inputs)

    def unit(x):
        return x / (np.linalg.norm(x, axis=1)[:, None] + 1e-5)

    for kind in (0, 1):
        targets = np.where(labels[:, kind] == 1, 1, -1)
        quality, machines = [], []
        for cost in costs:
            options = dict(class_weight={1: 2, -1: 1}, intercept_scaling=1.0, dual=True)
            options |= dict(tol=1e-4, max_iter=2000, random_state=0)
            machine = LinearSVC(C=cost, **options)
            scored = dict(cv=3, scoring="average_precision")
            folds = cross_val_score(machine, unit(train), targets, **scored)
            quality.append(folds.mean())
            machines.append(machine.fit(unit(train), targets))
        best = int(np.argmax(quality))
        assert chosen["svm_c"]["ab"[kind]] == costs[best]
        expected = machines[best].decision_function(unit(test))
        assert guess[:, kind] == pytest.approx(expected, abs=1e-6)
