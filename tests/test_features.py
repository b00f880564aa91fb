"""Crops, extraction, kNN, logistic regression and average precision against independent computations."""

import importlib.util
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, write_images
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torchvision.transforms import v2

from models.features import (
    accuracy,
    centre_crop,
    confusion,
    extract,
    knn,
    per_class,
    random_crop,
    read_splits,
    summary,
)
from models.linear import DECAYS, fit_linear, held_out, logistic_regression, scores, standardise
from models.resnet import load_backbone

CPU = torch.device("cpu")


# ------------------------------------------------------------------ crops
@pytest.mark.parametrize("shape", ((300, 400), (500, 281), (32, 40)))
def test_centre_crop_is_torchvisions(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = centre_crop(image, 0, 0, size=224)
    official = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(Image.fromarray(image))
    assert np.abs(crop.astype(int) - np.asarray(official)).max() <= 1
    assert centre_crop(crop, 0, 0, size=224) is crop  # of the stored size: not resized again


def test_random_crop_depends_on_its_names_only():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    crop = partial(random_crop, size=24, seed=3)
    np.random.seed(0)
    first = crop(image, 1, 7)
    np.random.seed(1)
    assert np.array_equal(first, crop(image, 1, 7)) and first.shape == (24, 24, 3)
    assert not np.array_equal(first, crop(image, 2, 7)) and not np.array_equal(
        first, crop(image, 1, 8)
    )


# ------------------------------------------------------------------ extraction
def test_extraction_is_the_evaluation_mode_and_not_the_batch(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", each=3)
    _, (files, _), _ = read_splits(tmp_path)
    backbone, width, _ = load_backbone("random", "resnet10", True)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = (
        torch.stack([torch.from_numpy(np.asarray(Image.open(file))) for file in files]).permute(
            0, 3, 1, 2
        )
        / 255
    )
    images = v2.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = backbone.eval()(images)
    backbone.train()  # BatchNorm must not take its statistics from the batch
    for batch in (128, 7, 1):
        features, rows = extract(
            backbone, files, partial(centre_crop, size=32), CPU, workers=0, batch=batch
        )
        torch.testing.assert_close(features, expected[rows], rtol=1e-4, atol=1e-4)
        assert features.shape == (len(files), width)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


WORKER = """
import sys, torch
from functools import partial
from models.features import centre_crop, extract, gather, knn, read_splits
from models.linear import fit_linear, held_out, scores, standardise
from models.resnet import load_backbone
from models.old_run import rank, start
class args: device = "cpu"
device = start(args)
classes, (files, labels), (val_files, _) = read_splits(sys.argv[1])
backbone, _, _ = load_backbone("random", "resnet10", True)
run = partial(extract, backbone, crop=partial(centre_crop, size=32), device=device, workers=0, batch=4)
train, rows = run(files)
val = gather(*run(val_files), len(val_files))
votes = knn(train, labels[rows], val, 3, k=5)
mean, sd = standardise(train, device)
W, decay, losses = fit_linear(train, labels[rows], 3, held_out(labels, 0)[rows], device)
if rank() == 0:
    torch.save([val, votes, scores(W, (val - mean) / sd), torch.tensor(list(losses.values()))], sys.argv[2])
"""


def test_two_processes_are_one(tmp_path):
    write_images(tmp_path / "data/train", each=7)
    write_images(tmp_path / "data/val", each=5, seed=1)
    (tmp_path / "worker.py").write_text(WORKER)
    results = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        command = [
            sys.executable,
            *launcher,
            tmp_path / "worker.py",
            tmp_path / "data",
            tmp_path / "out.pth",
        ]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            env={**__import__("os").environ, "PYTHONPATH": ROOT},
        )
        results.append(torch.load(tmp_path / "out.pth"))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0][0], results[1][0])


# ------------------------------------------------------------------ classifiers
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
    for decay in (1e-1, 1e-2, 1e-4):
        W = logistic_regression(
            x, y, torch.ones(len(x)), decay, torch.zeros(5, 41, dtype=torch.float64), 1e-5
        )
        theirs = LogisticRegression(C=1 / (decay * len(x)), max_iter=1000, tol=1e-6).fit(
            x.numpy(), y.numpy()
        )
        ours = accuracy(scores(W, new), new_y)[0]
        assert abs(ours - 100 * theirs.score(new.numpy(), new_y.numpy())) <= 0.2
        assert np.abs(W[:, :-1].numpy() - theirs.coef_).max() < 0.02 * np.abs(theirs.coef_).max()
    mask = held_out(y, 0)
    W, best, losses = fit_linear(x, y, 5, mask, CPU)
    assert set(losses) == set(DECAYS) and losses[best] == min(losses.values())
    theirs = LogisticRegression(C=1 / (best * len(x)), max_iter=1000).fit(x.numpy(), y.numpy())
    assert (
        abs(accuracy(scores(W, new), new_y)[0] - 100 * theirs.score(new.numpy(), new_y.numpy()))
        <= 0.2
    )
    several = torch.nn.functional.one_hot(y, 5).float()  # one-versus-rest
    W = logistic_regression(
        x, several, torch.ones(len(x)), 1e-2, torch.zeros(5, 41, dtype=torch.float64), 1e-6
    )
    theirs = LogisticRegression(C=1 / (1e-2 * len(x)), max_iter=1000).fit(
        x.numpy(), (y == 2).numpy()
    )
    assert np.abs(W[2, :-1].numpy() - theirs.coef_[0]).max() < 0.02 * np.abs(theirs.coef_).max()


def test_separable_and_shuffled():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.eye(3)[y] * 8 + torch.randn(300, 3, generator=g)
    standardise(x, CPU)
    W, _, _ = fit_linear(x[:200], y[:200], 3, held_out(y[:200], 0), CPU)
    assert accuracy(scores(W, x[200:]), y[200:])[0] == 100
    (x, _), y = noisy_classes(2000), torch.randint(5, (2000,), generator=g)
    standardise(x, CPU)
    W, _, _ = fit_linear(x[:1000], y[:1000], 5, held_out(y[:1000], 0), CPU)
    assert abs(accuracy(scores(W, x[1000:]), y[1000:])[0] - 20) < 5


def test_held_out_is_stratified():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 2 + [3])
    mask = held_out(labels, 0)
    assert [int(mask[labels == k].sum()) for k in range(4)] == [10, 2, 1, 0]
    assert torch.equal(mask, held_out(labels, 0)) and not torch.equal(mask, held_out(labels, 1))


def test_knn_against_a_loop():
    (x, y), (new, _) = noisy_classes(60), noisy_classes(7, seed=1)
    votes = knn(x, y, new, 5, k=4)
    for vector, vote in zip(new, votes, strict=True):
        cosines = torch.nn.functional.cosine_similarity(vector[None], x)
        expected = torch.zeros(5)
        for i in cosines.argsort(descending=True)[:4]:
            expected[y[i]] += torch.exp(cosines[i] / 0.07)
        torch.testing.assert_close(vote, expected, rtol=1e-3, atol=1e-3)
    assert knn(x[:3], y[:3], new, 5).shape == (7, 5)  # fewer images than neighbours


def test_accuracy_confusion_summary():
    guess = torch.tensor([[3.0, 2, 1], [1, 2, 3], [2, 3, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 1, 2])
    assert accuracy(guess, labels, (1, 2)) == [50, 75] and accuracy(guess, labels) == [50, 100]
    table = confusion(guess.argmax(1), labels, ["a", "b", "c"])
    assert table == {"a": {"a": 1}, "b": {"b": 1, "c": 1}, "c": {"a": 1}}
    assert per_class(table) == {"a": 100, "b": 50, "c": 0}
    assert (
        summary([1.0, 3.0]) == {"mean": 2.0, "sd": 1.4142, "values": [1.0, 3.0]}
        and summary([1.0])["sd"] == 0
    )


# ------------------------------------------------------------------ average precision
def test_average_precision():
    spec = importlib.util.spec_from_file_location("transfer", ROOT / "06_transfer.py")
    transfer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transfer)
    # ranks of the two positives 1 and 3: precisions 1 and 2/3, recalls 1/2 and 1
    exact, eleven = transfer.average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
    assert exact == pytest.approx(0.5 * 1 + 0.5 * 2 / 3) and eleven == pytest.approx(
        (6 * 1 + 5 * 2 / 3) / 11
    )
    assert transfer.average_precision([0.5, 0.5, 0.5], [1, 0, 0]) == pytest.approx(
        (1 / 3, 1 / 3)
    )  # equal scores
    assert all(np.isnan(transfer.average_precision([0.5, 0.1], [0, 0])))
    rng = np.random.default_rng(0)
    for _ in range(20):
        guess, truth = rng.integers(0, 15, 60) / 3, rng.random(60) < 0.3
        assert transfer.average_precision(guess, truth)[0] == pytest.approx(
            average_precision_score(truth, guess)
        )
    # -1 is not counted: neither in the precision nor for top-1
    guess, labels = (
        np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7]]),
        np.array([[-1, 1], [1, 0], [0, 1]]),
    )
    results, by_class = transfer.multi_label(guess, labels, ["a", "b"])
    assert by_class["a"] == 100 and by_class["b"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-3)
    assert results["top1"]["mean"] == 100
