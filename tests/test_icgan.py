"""IC-GAN: the files of a release, its inputs, the feature map's augmenters, the strategy noise."""

import argparse
import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call
from conftest import run as stage
from icgan_release import (
    GOLDENS,
    TOLERANCE,
    error,
    official_state,
    refused,
    rngs,
    unit,
    write_photographs,
    write_release,
)
from PIL import Image
from scipy import stats
from torchvision.models.resnet import Bottleneck, ResNet

from augment import feature_map, icgan
from base import run
from images.read import read_image
from models.biggan import generator_from_state
from models.resnet import build_backbone


@pytest.fixture(scope="module")
def tiny():
    return generator_from_state(official_state("tiny"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("icgan"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


# ---------------------------------------------------------------- files
def pack(path, *members, **options):
    """A tarball of (name, bytes) or TarInfo."""
    with tarfile.open(path, "w:gz", **options) as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if info is member else member[1]
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


class Evil:
    """Unpickling it makes the folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_release_as_folder_tarball_and_file(release, tmp_path, capsys, monkeypatch):
    tarball = tmp_path / "release.tar.gz"
    with tarfile.open(tarball, "w:gz") as tar:
        for name in ("G_ema_best0.pth", "state_dict_best0.pth"):
            tar.add(release / name, f"{release.name}/{name}")
    monkeypatch.setenv(
        "GCL_WEIGHTS", str(release)
    )  # there the encoder is found where nothing lies beside
    for path in (release, release.parent, release / "G_ema_best0.pth", tarball):
        generator, encoder, files = feature_map.load_icgan(path)
        assert error("tiny", generator) < TOLERANCE
        assert not generator.training and not any(p.requires_grad for p in generator.parameters())
        read = "release.tar.gz" if path == tarball else "G_ema_best0.pth"
        assert files == {
            name: run.file_hash(file)
            for name, file in (
                (read, tarball if path == tarball else release / read),
                (feature_map.SWAV, release / feature_map.SWAV),
            )
        }
    torch.manual_seed(0)  # as the fixture
    reference = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    reference.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(
            feature_map.encode(encoder, images), F.normalize(reference(images)), atol=1e-6
        )

    several = tmp_path / "several"
    several.mkdir()
    state = official_state("tiny")
    torch.save(state, several / "G_ema_best0.pth")
    torch.save({name: value + 1 for name, value in state.items()}, several / "G_ema.pth")
    torch.save({name: value + 1 for name, value in state.items()}, several / "G_ema_copy0.pth")
    capsys.readouterr()
    assert error("tiny", feature_map.load_icgan(several)[0]) < TOLERANCE
    assert "G_ema_best0.pth is used, of 3" in capsys.readouterr().err


def test_bad_release_files(release, tmp_path, capsys, monkeypatch):
    def reason(path):
        return refused(capsys, feature_map.load_icgan, path)

    good = (release / "G_ema_best0.pth").read_bytes()
    link = tarfile.TarInfo("icgan/G_ema_best0.pth")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for name, members in {
        "up": [("a/../../G_ema_best0.pth", good)],
        "absolute": [("/a/G_ema_best0.pth", good)],
        "link": [link],
        "aside": [("a/G_ema_best0.pth", good), ("../x", b"")],
    }.items():
        assert "was refused" in reason(pack(tmp_path / f"{name}.tar.gz", *members))
    assert "holds no G_ema" in reason(pack(tmp_path / "none.tar.gz", ("a/G_best0.pth", good)))
    two = pack(tmp_path / "two.tar.gz", ("a/G_ema_best0.pth", good), ("b/G_ema_best0.pth", good))
    assert "several releases (a, b)" in reason(two)
    (tmp_path / "cut.tar.gz").write_bytes(two.read_bytes()[:100_000])
    assert "cannot be read as a tarball" in reason(tmp_path / "cut.tar.gz")

    evil = tmp_path / "G_ema_best0.pth"
    torch.save({"shared.weight": Evil(tmp_path / "executed")}, evil)
    assert "refused" in reason(evil)
    assert "evil.tar.gz" in reason(
        pack(tmp_path / "evil.tar.gz", ("a/G_ema_best0.pth", evil.read_bytes()))
    )
    evil.write_bytes(pickle.dumps(Evil(tmp_path / "executed"), protocol=2))
    assert "G_ema_best0.pth" in reason(evil)
    assert not (tmp_path / "executed").exists()
    assert "refused" in reason(
        release / "state_dict_best0.pth"
    )  # of the release, but holds objects and no weights
    torch.save({"model": {"a": torch.ones(1)}}, evil)
    assert "not a flat dictionary of tensors" in reason(evil)
    assert "does not exist" in reason(tmp_path / "nowhere")

    swav = tmp_path / feature_map.SWAV
    shutil.copy(release / "G_ema_best0.pth", evil)
    state = torch.load(release / feature_map.SWAV, weights_only=True)
    torch.save(state | {"module.other": torch.ones(1)}, swav)
    assert "other" in reason(evil)
    torch.save(
        {name: value for name, value in state.items() if name != "module.layer3.0.bn2.weight"}, swav
    )
    assert "layer3.0.bn2.weight" in reason(evil)
    torch.save(build_backbone("resnet18")[0].state_dict(), swav)
    assert "512 features, the generator needs 2048" in reason(evil)


# ---------------------------------------------------------------- inputs
def test_preprocessing_parity():
    golden = np.load(GOLDENS / "preprocess.npz")
    squares = torch.from_numpy(feature_map.demo_square(golden["image"]).copy())[None]
    for name, align_corners in (("demo", True), ("training", False)):
        ours = feature_map.encoder_input(squares, align_corners)[0, :, ::7, ::7].numpy()
        assert np.abs(ours - golden[name]).max() < 1e-5
    assert np.abs(golden["demo"] - golden["training"]).max() > 0.03  # the two ways are told apart


def test_noise_vectors():
    """The published law, and each row a function of its own generator alone."""
    z = feature_map.noise_vectors(rngs(200, "z"), 119, truncation=0.7)
    assert z.dtype == torch.float32 and z.abs().max() <= 1.4
    assert stats.kstest(z.flatten(), stats.truncnorm(-1.4, 1.4).cdf).pvalue > 0.01
    assert (
        stats.kstest(feature_map.noise_vectors(rngs(200, "z"), 119).flatten(), "norm").pvalue > 0.01
    )
    assert torch.equal(feature_map.noise_vectors(rngs(200, "z")[3:5], 119, 0.7), z[3:5])


# ---------------------------------------------------------------- feature-map augmenters
def test_feature_noise():
    feature = unit(64)
    assert torch.allclose(
        feature_map.feature_noise(feature, 0.0, 2.0, rngs(64)), feature, atol=1e-7
    )
    moved = feature_map.feature_noise(feature, 0.05, 2.0, rngs(64))
    noise = 0.05 * feature_map.truncated_normal(rngs(64), 2048, 2.0)
    assert torch.allclose(moved, F.normalize(feature + noise)) and noise.abs().max() <= 0.1
    assert float(noise.norm(dim=1).square().mean().sqrt()) == pytest.approx(
        feature_map.noise_norm(0.05, 2.0, 2048), rel=0.01
    )
    assert torch.equal(
        feature_map.feature_noise(feature[5:7], 0.05, 2.0, rngs(64)[5:7]), moved[5:7]
    )
    angles = [
        F.cosine_similarity(feature_map.feature_noise(feature, std, 2.0, rngs(64)), feature).mean()
        for std in (0.01, 0.03, 0.1)
    ]
    assert angles == sorted(angles, reverse=True)


def test_interpolation_and_steering():
    a, b = unit(3), unit(3, seed=1)
    assert torch.allclose(feature_map.interpolate(a, b, 0.0), a) and torch.allclose(
        feature_map.interpolate(a, b, 1.0), b
    )
    half = feature_map.interpolate(a, b, 0.5)
    assert torch.allclose((half * a).sum(1), (half * b).sum(1), atol=1e-6)
    assert torch.allclose(half.norm(dim=1), torch.ones(3))
    assert torch.allclose(feature_map.steer(a, b[0], 0.5), F.normalize(a + 0.5 * b[0]))


def test_navigator(tmp_path, capsys):
    feature, navigator = unit(8), feature_map.Navigator(2048, bound=0.3)
    step = navigator.layer(feature)
    assert step.norm(dim=1).min() > 0.3  # so the bound acts
    assert torch.allclose(
        navigator(feature), F.normalize(feature + 0.3 * F.normalize(step)), atol=1e-6
    )
    navigator.bound.fill_(100.0)
    assert torch.allclose(navigator(feature), F.normalize(feature + step), atol=1e-6)
    torch.save(navigator.state_dict(), tmp_path / "navigator.pt")
    assert torch.equal(
        feature_map.load_navigator(tmp_path / "navigator.pt", 2048)(feature), navigator(feature)
    )
    assert "navigator.pt" in refused(
        capsys, feature_map.load_navigator, tmp_path / "navigator.pt", 64
    )
    assert "direction of 64" in refused(
        capsys, feature_map.load_direction, tmp_path / "navigator.pt", 64
    )


def test_inversion(tiny):
    """It comes closer to the target, for every image by itself; ignored columns stay."""
    feature, z0 = unit(3), feature_map.noise_vectors(rngs(3, "start"), 24)
    with torch.inference_mode():
        target = tiny(feature_map.noise_vectors(rngs(3, "target"), 20), feature)
        distances = []
        for steps in (0, 5, 20):
            z = feature_map.invert(tiny, feature, target, z0, steps)
            distances.append((tiny(z, feature) - target).square().mean((1, 2, 3)))
        alone = feature_map.invert(tiny, feature[1:2], target[1:2], z0[1:2], 20)
    assert torch.equal(feature_map.invert(tiny, feature, target, z0, 0), z0)
    assert (distances[1] < distances[0]).all() and (distances[2] < 0.7 * distances[0]).all()
    assert torch.allclose(alone, z[1:2], atol=1e-4) and torch.equal(z[:, 20:], z0[:, 20:])


# ---------------------------------------------------------------- the strategy
def strategy(photographs, release, *flags):
    p = argparse.ArgumentParser()
    icgan.noise_arguments(p)
    args = p.parse_args(["--weights", str(release), *map(str, flags)])
    args.data, args.seed, args.precision = str(photographs), 0, "fp32"
    return icgan.noise(args, torch.device("cpu"))


def test_every_option_acts(photographs, release, tmp_path, monkeypatch):
    loaded = feature_map.load_icgan(release)
    generator, encoder, _ = loaded
    monkeypatch.setattr(feature_map, "load_icgan", lambda path: loaded)
    paths = ["class0/0.png", "class1/1.png"]
    images = torch.from_numpy(
        np.stack([feature_map.demo_square(read_image(photographs / path)) for path in paths])
    )
    feature = feature_map.encode(encoder, feature_map.encoder_input(images))
    z = feature_map.noise_vectors([run.seed_rng(0, path, 0) for path in paths], generator.z_width)

    def generated(*flags, views=1):
        made = strategy(photographs, release, "--views", views, *flags)
        views = made.generate(images, paths)
        assert views.dtype == torch.uint8 and views.shape[1:] == (2, 64, 64, 3)
        return views.float()

    def same(views, z, feature):  # to a gray level: rounding
        expected = (generator(z, feature) + 1) * 127.5
        return bool((views - expected.permute(0, 2, 3, 1)).abs().max() < 1.01)

    made = strategy(photographs, release)
    assert (made.size, made.views) == (64, ["view0"]) and np.array_equal(
        made.read(photographs / paths[0]), images[0]
    )
    pickle.dumps(made.read)  # so that it can be sent to any worker process
    titles, rows, _ = made.sheet(images, paths)
    assert len(titles) == len(rows[0]) == 6 and len(rows) == 2

    plain = generated(views=2)
    assert same(plain[0], z, feature) and not torch.equal(plain[0], plain[1])
    other = feature_map.encode(encoder, feature_map.encoder_input(images, align_corners=False))
    views = generated("--preprocess", "training")[0]
    assert same(views, z, other) and not torch.equal(views, plain[0])
    cut = feature_map.noise_vectors(
        [run.seed_rng(0, path, 0) for path in paths], generator.z_width, 0.2
    )
    assert cut.abs().max() <= 0.4 and same(generated("--truncation", 0.2)[0], cut, feature)

    still = generated("--feature-noise", 0, views=2)
    assert same(still[0], z, feature) and torch.equal(still[0], still[1])
    encode = feature_map.encode
    with monkeypatch.context() as patch:  # noise of 0 normalises once more, to the last bit
        patch.setattr(feature_map, "encode", lambda *args: F.normalize(encode(*args), dim=1))
        assert torch.equal(still[0], generated()[0])
    noisy = generated("--feature-noise", 0.05, "--feature-truncation", 1.5, views=2)
    for view in range(2):
        draws = [run.seed_rng(0, path, "feature noise", view) for path in paths]
        assert same(noisy[view], z, feature_map.feature_noise(feature, 0.05, 1.5, draws))
    assert not torch.equal(noisy[0], noisy[1])

    inverted = generated("--invert-steps", 10)[0]
    target = F.interpolate(
        images.permute(0, 3, 1, 2).float(), 64, mode="bilinear", antialias=True
    ).permute(0, 2, 3, 1)
    before, after = ((views - target).square().mean((1, 2, 3)) for views in (plain[0], inverted))
    assert (after < before).all()

    assert same(generated("--interpolate", 0)[0], z, feature)
    names = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.png"))
    partners = generated("--interpolate", 1)[0]
    for i, path in enumerate(paths):  # the image of another file
        others = [
            feature_map.demo_square(read_image(photographs / name))
            for name in names
            if name != path
        ]
        others = feature_map.encode(
            encoder, feature_map.encoder_input(torch.from_numpy(np.stack(others)))
        )
        assert sum(same(partners[i : i + 1], z[i : i + 1], one[None]) for one in others) == 1

    direction, navigator = unit(1, seed=5)[0], feature_map.Navigator(2048, bound=0.5)
    torch.save({"direction": direction}, tmp_path / "direction.pt")
    torch.save(navigator.state_dict(), tmp_path / "navigator.pt")
    steered = generated("--steer", tmp_path / "direction.pt", "--steer-strength", -0.7)[0]
    assert same(steered, z, feature_map.steer(feature, direction, -0.7)) and not torch.equal(
        steered, plain[0]
    )
    navigated = generated("--navigator", tmp_path / "navigator.pt")[0]
    assert same(navigated, z, navigator(feature)) and not torch.equal(navigated, plain[0])


def test_noise_end_to_end(photographs, release, tmp_path):
    """Twice equal files, with other batches equal up to rounding; a bad file is a sentence."""
    common = ("noise", "--data", photographs, "--weights", release, "--workers", 0, "--batch-size")
    stage("02_augment.py", *common, 4, "--out", tmp_path / "a")
    call("02_augment.py", *common, 4, "--out", tmp_path / "b")
    call("02_augment.py", *common, 1, "--out", tmp_path / "c")
    a, b, c = (
        {
            file.relative_to(tmp_path / out): file.read_bytes()
            for file in (tmp_path / out).rglob("view0/*/*")
        }
        for out in "abc"
    )
    assert len(a) == 6 and a == b and a.keys() == c.keys()
    for name in a:
        one, other = (np.asarray(Image.open(tmp_path / out / name)).astype(int) for out in "ac")
        assert np.abs(one - other).max() <= 1
    assert (tmp_path / "a" / "samples.png").exists()
    stage(
        "02_augment.py",
        "noise",
        "--data",
        photographs,
        "--weights",
        release / "state_dict_best0.pth",
        "--out",
        tmp_path / "d",
        code=1,
    )
