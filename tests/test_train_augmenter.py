"""extras/train_augmenter.py: steering vectors and navigators of IC-GAN's feature map."""

import importlib
import math
import shutil

import feature_noise
import pytest
import torch
import torch.nn.functional as F
from conftest import call, refused
from conftest import run as stage
from icgan_release import rngs, unit
from test_icgan import strategy

from augment import noise
from base import run, run_folder, training
from base.weights import load_strictly
from models.biggan import Generator

train_augmenter = importlib.import_module("train_augmenter")
HELD_OUT = 32  # feature maps


def small_generator():
    """16 px, random: 64 features, to train on a CPU in seconds."""
    torch.manual_seed(0)
    generator = Generator([64, 32, 32], attention=[], chunk=4, embedding=32, feature=64)
    for name, weight in generator.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight)
            weight.data /= torch.linalg.matrix_norm(weight.flatten(1), 2)
    return generator.requires_grad_(False)


@pytest.fixture
def trainer(monkeypatch):
    """extras/train_augmenter.py on random feature maps, with a SimCLR model of one convolution."""
    module = train_augmenter

    def small_backbone(name, small_images):
        layers = [torch.nn.Conv2d(3, 32, 4, 2), torch.nn.BatchNorm2d(32), torch.nn.ReLU()]
        layers += [torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()]
        return torch.nn.Sequential(*layers), 128

    def load_icgan(path, device):
        return small_generator(), torch.nn.Identity(), {}

    def encode(args, device, encoder, paths):
        return unit(160, 64, args.seed)[HELD_OUT:]

    kept = {}

    class Resumable(training.Resumable):
        def __init__(self, *args, **parts):
            kept.update(parts)
            super().__init__(*args, **parts)

    monkeypatch.setattr(module, "build_backbone", small_backbone)
    monkeypatch.setattr(module, "find_images", lambda data: [f"{i}.png" for i in range(128)])
    monkeypatch.setattr(module, "encode", encode)
    monkeypatch.setattr(module.training, "Resumable", Resumable)
    monkeypatch.setattr(noise, "load_icgan", load_icgan)

    def train(out, *flags):
        flags = [*flags, "--data", "none", "--out", str(out), "--precision", "fp32"]
        module.main(module.arguments(flags), torch.device("cpu"))
        return kept

    return train


def held_out(seed):
    generator = small_generator()
    z = noise.noise_vectors(rngs(HELD_OUT, "held out", seed), generator.z_width)
    return generator, z, unit(160, 64, seed)[:HELD_OUT]


STEER = ("steer", "--batch-size", "8", "--learning-rate", "2e-2")
NAVIGATE = ("navigator", "--batch-size", "16", "--learning-rate", "5e-3", "--feature-noise", "0.05")


@pytest.mark.parametrize("kind", ["brightness", "zoom", "shift"])
def test_steering_comes_closer_to_the_edit(kind, trainer, tmp_path):
    for seed in range(3):
        flags = ("--edit", kind, "--seed", str(seed), "--steps", "50")
        trainer(tmp_path / str(seed), *STEER, *flags)
        direction = run.load(tmp_path / str(seed) / "direction.pt")
        steering = load_strictly(feature_noise.Steering(64), direction, kind)
        generator, z, feature = held_out(seed)
        plain = generator(z, feature)
        steered, unsteered = 0, 0
        for sign in (-1.0, 1.0):
            amount = torch.full((HELD_OUT,), sign * train_augmenter.EDIT_STRENGTH)
            target, mask = train_augmenter.edit(kind, plain, amount)
            moved = generator(z, steering(feature, sign))
            steered += train_augmenter.distance(moved, target, mask).mean()
            unsteered += train_augmenter.distance(plain, target, mask).mean()
        assert steered < 0.99 * unsteered


def test_edits():
    """Brighter by a share of the range, moved right, magnified; the mask is set inside."""
    edit = train_augmenter.edit
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    amount = torch.full((1,), 0.25)
    brighter, mask = edit("brightness", image, amount)
    assert torch.allclose(brighter, (image + 0.5).clamp(max=1)) and mask.all()
    moved, mask = edit("shift", image, amount)
    assert torch.allclose(moved[..., 2:], image[..., :-2], atol=1e-5) and mask[..., 2:].all()
    assert not mask[..., :2].any()
    larger, mask = edit("zoom", image, torch.full((1,), math.log(2)))
    assert torch.allclose(F.avg_pool2d(larger, 2), image[..., 2:6, 2:6], atol=1e-5) and mask.all()
    smaller, mask = edit("zoom", image, torch.full((1,), -math.log(2)))
    assert torch.allclose(smaller[..., 2:6, 2:6], F.avg_pool2d(image, 2), atol=1e-5)
    assert mask.sum() == 3 * 16 and mask[..., 2:6, 2:6].all()


def test_navigator_is_harder_than_noise(trainer, tmp_path):
    """On held-out feature maps, for three seeds, its step bounded by the norm of the noise."""
    for seed in range(3):
        flags = ("--seed", str(seed), "--steps", "70")
        simclr = trainer(tmp_path / str(seed), *NAVIGATE, *flags)["simclr"].eval()
        layer = run.load(tmp_path / str(seed) / "navigator.pt")
        navigator = load_strictly(feature_noise.Navigator(64), layer, "navigator.pt")
        assert navigator.bound.item() == pytest.approx(feature_noise.noise_norm(0.05, 64))
        generator, z, feature = held_out(seed)
        noisy = feature_noise.add_noise(feature, 0.05, rngs(HELD_OUT, "noise", seed))
        losses = []
        for moved in (noisy, navigator(feature)):
            of_batches = []
            for part, f, m in zip(z.split(16), feature.split(16), moved.split(16), strict=True):
                images = generator(part, f), generator(part, m), rngs(16, "crop", seed)
                with torch.no_grad():
                    of_batches.append(train_augmenter.contrast(simclr, *images))
            losses.append(sum(of_batches) / len(of_batches))
        assert losses[1] > losses[0] + 0.05


INTERRUPTED = [((*STEER, "--edit", "zoom"), "direction.pt", 4), (NAVIGATE, "navigator.pt", 8)]


@pytest.mark.parametrize("flags, file, stop", INTERRUPTED)
def test_interrupted_training_continues(flags, file, stop, trainer, tmp_path, monkeypatch, capsys):
    """Stopped within the fourth of six steps and begun again: as if it had not been stopped."""
    flags, step, calls = (*flags, "--steps", "6"), torch.optim.Adam.step, []

    def stopping(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    trainer(tmp_path / "whole", *flags)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", stopping)
        trainer(tmp_path / "cut", *flags, "--checkpoint-minutes", "0")
    assert run.load(tmp_path / "cut" / "checkpoint.pth")["step"] == 3
    trainer(tmp_path / "cut", *flags)
    logs = [run_folder.read_log(tmp_path / out, "steps") for out in ("cut", "whole")]
    assert logs[0] == logs[1] and len(logs[0]) == 1
    states = [run.load(tmp_path / out / file).values() for out in ("cut", "whole")]
    assert all(map(torch.equal, *states))
    capsys.readouterr()
    trainer(tmp_path / "cut", *flags)
    assert "is finished" in capsys.readouterr().out


def test_training_commands(parts, release, tmp_path, capsys):
    """What they write is what the strategy takes; a finished run is refused with other images."""
    data = shutil.copytree(parts, tmp_path / "data")
    common = ("--data", data, "--weights", release, "--workers", 0, "--steps", 2)
    steer = ("extras/train_augmenter.py steer --edit shift --batch-size 2", *common, "--out")
    stage(*steer, tmp_path / "s")
    navigator = ("extras/train_augmenter.py navigator", *common, "--out")
    call(*navigator, tmp_path / "n", "--batch-size", 2)
    files = ("--steer", tmp_path / "s/direction.pt", "--navigator", tmp_path / "n/navigator.pt")
    made = strategy(data, release, "feature-noise", *files)
    assert made.record["files"]["navigator"] == run.file_hash(tmp_path / "n/navigator.pt")
    for words, said in {(): "--batch-size 32", ("--batch-size", 1): "--batch-size 1"}.items():
        assert said in refused(capsys, *navigator, tmp_path / "x", *words, code=2)
    assert "lies inside --data" in refused(capsys, *navigator, data / "x")
    several = stage(*steer, tmp_path / "s", processes=2, code=1)
    assert "start it with python, not with torchrun" in several.stderr
    call(*steer, tmp_path / "s")
    assert "is finished" in capsys.readouterr().out
    (data / "class0" / "0.png").rename(data / "class0" / "other.png")
    assert "list of images was" in refused(capsys, *steer, tmp_path / "s", code=2)
