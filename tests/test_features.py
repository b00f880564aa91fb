"""Crops, extraction and labels, against other computations."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from conftest import run, sentences, write_images
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import InterpolationMode, v2

from base import parallel
from evaluate import features, linear
from evaluate.features import centre_crop, extract, knn, random_crop, squash
from evaluate.linear import scores, standardise
from images import labelled
from images.labelled import read_splits
from images.unreadable import ImageList
from models.resnet import load_backbone

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", ((300, 400), (500, 281), (32, 40)))
def test_centre_crop_is_torchvisions(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = centre_crop(image, 0, 0, size=224)
    official = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(Image.fromarray(image))
    assert np.abs(crop.astype(int) - np.asarray(official)).max() <= 1
    assert centre_crop(crop, 0, 0, size=224) is crop  # of the stored size: not resized again
    bicubic = centre_crop(image, 0, 0, size=224, interpolation="bicubic")
    resize = v2.Resize(256, InterpolationMode.BICUBIC)
    official = v2.Compose([resize, v2.CenterCrop(224)])(Image.fromarray(image))
    assert np.abs(bicubic.astype(int) - np.asarray(official)).max() <= 1
    vissl = v2.Compose([v2.Resize(256), v2.Resize((224, 224))])(Image.fromarray(image))
    squashed = squash(image, 0, 0, size=224)
    distance = np.abs(squashed.astype(int) - np.asarray(vissl))
    assert distance.max() <= 2 and (distance > 1).mean() < 1e-4  # resized twice, rounded twice


def test_an_evaluation_crops_as_its_method_does():
    for method, ways in {"dino": "cl", "byol": "cc", "vicreg": "ll", None: "ll"}.items():
        found = features.crop_of(method, 32).keywords["interpolation"]
        assert found[2] + features.interpolation_of(method)[2] == ways, "bicubic or bilinear"


def test_random_crop_depends_on_its_names_only():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    crop = partial(random_crop, size=24, seed=3)
    np.random.seed(0)
    first = crop(image, 1, 7)
    np.random.seed(1)
    assert np.array_equal(first, crop(image, 1, 7)) and first.shape == (24, 24, 3)
    for other in ((2, 7), (1, 8)):
        assert not np.array_equal(first, crop(image, *other))
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for index in range(20):
        crop = random_crop(image, 0, index, size=24, seed=0, scale=(1, 1), flip=False)
        np.testing.assert_array_equal(crop, image)


def test_extraction_is_the_evaluation_mode_and_not_the_batch(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", each=3)
    files = read_splits(tmp_path).train.files
    backbone, width, _ = load_backbone("random", "resnet10", True)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    images = v2.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = backbone.eval()(images)
    backbone.train()  # BatchNorm must not take its statistics from the batch
    for batch in (128, 7, 1):
        crop = partial(centre_crop, size=32)
        features, rows = extract(backbone, ImageList("", files), crop, CPU, workers=0, batch=batch)
        torch.testing.assert_close(features, expected[rows], rtol=1e-4, atol=1e-4)
        assert features.shape == (len(files), width)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_reading_takes_an_endless_order(tmp_path):
    """The order of a whole training is never a list: it would be gigabytes for ImageNet."""
    write_images(tmp_path, each=3)
    files, _ = labelled.read_folder(tmp_path)
    asked = []

    def order():
        for step in itertools.count():
            asked.append(step)
            yield [(step, 0), (step, 5)]

    crop = partial(random_crop, size=16, seed=0)
    batches = iter(features.read_batches(ImageList("", files), order(), crop, 0, CPU))
    for _ in range(3):
        pixels, indices = next(batches)
        assert pixels.shape == (2, 16, 16, 3) and indices.tolist() == [0, 5]
    assert len(asked) < 6


def test_reserved_memory_and_features_that_are_not_finite(monkeypatch, tmp_path, capsys):
    """During a training almost all of a GPU is PyTorch's own reserve."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * gib)
    cuda = torch.device("cuda", 0)
    assert features.home_of(3 * gib // 1024, 1024, cuda) == cuda  # 12 GiB of 21
    assert features.home_of(4 * gib // 1024, 1024, cuda) == CPU  # 16 GiB
    assert features.home_of(4 * gib // 1024, 1024, CPU) == CPU
    for i, level in enumerate((200, 20, 220, 10)):
        Image.new("RGB", (32, 32), (level, level, level)).save(tmp_path / f"{i}.png")
    files = ImageList(tmp_path, [f"{i}.png" for i in range(4)])
    crop = partial(centre_crop, size=32)
    colours = partial(torch.mean, dim=(2, 3))

    def dark_is_nan(pixels):
        return colours(pixels).where(colours(pixels) > 0, torch.nan)

    network = torch.nn.Identity()
    network.forward = dark_is_nan
    extraction = partial(extract, workers=0, batch=3)
    *_, said = sentences(capsys, extraction, network, files, crop, CPU)
    assert "features of 2 images are not finite" in said and "1.png" in said


@pytest.mark.parametrize("home", ("cpu", "cuda"))
def test_no_operation_mixes_devices(home, monkeypatch):
    """On tensors without data, which refuse it as a GPU does; features on the CPU or on the GPU."""
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(features, "home_of", lambda rows, width, device: torch.device(home))
    monkeypatch.setattr(features, "refuse_infinite", lambda file_of, finite: None)
    monkeypatch.setattr(features, "read_crops", lambda batch, files, crop: crops(len(batch)))

    def crops(n):
        return torch.zeros(n, 32, 32, 3, dtype=torch.uint8), np.zeros(n, np.int64)

    def read_batches(files, batches, crop, *_, stand_in):
        return (crops(len(batch)) for batch in batches)

    monkeypatch.setattr(features, "read_batches", read_batches)
    one, two = (load_backbone("random", "resnet10", True)[0] for _ in range(2))
    files = [str(i) for i in range(30)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, rows = extract(one, ImageList("", files), None, cuda, batch=8)
        val, _ = extract(two, ImageList("", files[:7]), None, cuda, batch=8, everywhere=True)
        assert (x.device.type, val.device) == (home, cuda)
        assert isinstance(rows, np.ndarray) and len(rows) == len(x) == 30
        labels = torch.zeros(30, dtype=torch.int64)
        votes = knn(x, labels, val, 3)
        assert votes.device == cuda and votes.shape == (7, 3)
        mean, sd = standardise(x, cuda)
        W = torch.zeros(3, x.shape[1] + 1, dtype=torch.float64, device=cuda)
        y = labels.to(x.device)
        weight = torch.ones(30).to(x.device)
        loss, gradient = linear.loss_and_gradient(W, x, y, weight)
        assert loss.device == gradient.device == cuda
        assert scores(W, (val - mean) / sd).device == cuda


def worker(data, out):
    """One or one of two processes: features of a folder and what is computed of them, in a file."""
    parallel.join(CPU)
    data = read_splits(data)
    backbone, _, _ = load_backbone("random", "resnet10", True)
    options = dict(crop=partial(centre_crop, size=32), device=CPU, workers=0, batch=4)
    train, rows = extract(backbone, ImageList("", data.train.files), **options)
    val, _ = extract(backbone, ImageList("", data.val.files), everywhere=True, **options)
    labels = data.train.labels
    y, held = (torch.from_numpy(values[rows]) for values in (labels, linear.held_out(labels, 0)))
    votes = knn(train, y, val, 3, k=5)
    mean, sd = standardise(train, CPU)
    W, decay = linear.fit_linear(train, y, 3, held, CPU)
    if parallel.rank() == 0:
        torch.save([val, votes, scores(W, (val - mean) / sd), torch.tensor(decay)], out)
    parallel.leave()


def test_two_processes_are_one(tmp_path):
    write_images(tmp_path / "data/train", each=7)
    write_images(tmp_path / "data/val", each=5, seed=1)
    results = []
    words = ("tests/otherwise.py test_features:worker", tmp_path / "data", tmp_path / "out.pth")
    for processes, cold in ((1, False), (2, True)):  # cold: by torchrun itself
        run(*words, processes=processes, cold=cold)
        results.append(torch.load(tmp_path / "out.pth"))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0][0], results[1][0])


def test_some_of_each():
    labels = np.repeat([0, 1, 2], [30, 5, 2])

    def drawn(*names):
        return labelled.some_of_each(labels, lambda n: 3, *names)

    mask = drawn(0, "name")
    assert [int(mask[labels == k].sum()) for k in range(3)] == [3, 3, 2]
    assert np.array_equal(mask, drawn(0, "name"))
    assert not np.array_equal(mask, drawn(1, "name"))
    assert not np.array_equal(mask, drawn(0, "other"))


@pytest.mark.parametrize("crop", [centre_crop, squash])
@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_strips_cost_little_memory(crop, shape):
    strip = np.full((*shape, 3), 7, np.uint8)
    made = crop(strip, 0, 0, size=224)
    assert made.shape == (224, 224, 3) and (made == 7).all()
