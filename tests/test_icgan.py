"""IC-GAN: parity with the official code, its files, and the feature map's augmenters.

goldens/icgan: reference values computed with the official code (facebookresearch/ic_gan) on random
weights: a release folder of a 64 px generator, a 256 px one, preprocessing, every key of the
published 256 px generator, and the largest error that each of 25 plausible wrong ports makes on
these generators.
"""

import argparse
import importlib.util
import io
import json
import math
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call
from conftest import refused as refused_stage
from conftest import run as stage
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from models import biggan, feature_map, icgan, run
from models.biggan import generator_config, generator_from_state, official_shapes
from models.images import read_image
from models.resnet import backbone_from_state, build_backbone

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).parent / "goldens" / "icgan"
TOLERANCE = 1e-4  # the official code in float32 errs by 1.5e-5 against float64
FULL = {
    "channels": [1536, 1536, 768, 768, 384, 192, 96],
    "attention": [3],
    "chunk": 17,
    "embedding": 512,
    "feature": 2048,
    "labels": (1000, 128),
}


def official_state(name):
    file = GOLDENS / ("release/G_ema_best0.pth" if name == "tiny" else "tiny256.pth")
    return torch.load(file, weights_only=True)


def error(name, generator=None):
    """Largest difference from the official images."""
    golden = {
        key: torch.from_numpy(value) for key, value in np.load(GOLDENS / "images.npz").items()
    }
    generator = generator or generator_from_state(official_state(name))
    with torch.inference_mode():
        images = generator(golden[f"{name}_z"], golden[f"{name}_feature"])
        again = torch.cat(
            [
                generator(golden[f"{name}_z"][i : i + 1], golden[f"{name}_feature"][i : i + 1])
                for i in range(len(images))
            ]
        )
    assert (images - again).abs().max() < TOLERANCE  # batch mates do not matter
    images = images if name == "tiny" else images[:, :, 1::4, 2::4]
    return float((images - golden[f"{name}_image"]).abs().max())


def unit(n, width=2048, seed=0):
    """Feature maps like an encoder's: not negative, of unit norm."""
    return F.normalize(
        torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).abs(), dim=1
    )


def rngs(n, *names):
    return [run.seed_rng(0, *names, i) for i in range(n)]


@pytest.fixture(scope="module")
def tiny():
    return generator_from_state(official_state("tiny"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The official release's folder, with a small SwAV checkpoint beside the generator."""
    folder = tmp_path_factory.mktemp("icgan") / "icgan_biggan_imagenet_res64"
    shutil.copytree(GOLDENS / "release", folder)
    torch.manual_seed(0)
    encoder = ResNet(Bottleneck, [1, 1, 1, 1])
    encoder.fc = torch.nn.Identity()
    state = {f"module.{name}": value for name, value in encoder.state_dict().items()}
    heads = ("projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight")
    torch.save(
        state | {f"module.{name}": torch.zeros(3) for name in heads}, folder / feature_map.SWAV
    )
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two photographs and four cut-outs of them."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(load_sample_images().images):
        for j, part in enumerate((image, image[:300, :280], image[150:, 200:])):
            (folder / f"class{i}").mkdir(exist_ok=True)
            Image.fromarray(part).save(folder / f"class{i}" / f"{j}.png")
    return folder


def refused(capsys, function, *args):
    """The one sentence with which `function` ends the run."""
    with pytest.raises(SystemExit) as end:
        function(*args)
    assert end.value.code == 1
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    return sentence


# ---------------------------------------------------------------- generator
@pytest.mark.parametrize("name", ["tiny", "tiny256"])
def test_generator_parity(name):
    assert error(name) < TOLERANCE


def test_tolerance_catches_every_wrong_port(monkeypatch):
    """Each recorded wrong port errs a hundred tolerances on one of the two generators.

    The two mildest are tried here."""
    for what, errors in json.loads((GOLDENS / "wrong_ports.json").read_text()).items():
        assert (max(errors) > 100 * TOLERANCE) == what.startswith("WRONG"), what
    with monkeypatch.context() as patch:
        patch.setattr(biggan, "EPS", 1e-4)
        assert error("tiny") > 50 * TOLERANCE and error("tiny256") > 50 * TOLERANCE
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, scale: attention(q, k, v)
    )
    assert error("tiny") > 50 * TOLERANCE


def test_generator_gradient(tiny):
    """Of the folded network with respect to both inputs, against finite differences in float64."""
    double = generator_from_state(official_state("tiny")).double()
    z, feature = torch.randn(1, 20, dtype=torch.float64), unit(1).double()
    z.requires_grad_(), feature.requires_grad_()
    double(z, feature).square().sum().backward()
    for x in (z, feature):
        step = 1e-6 * F.normalize(x.grad, dim=1)
        shifted = [
            (z + sign * step, feature) if x is z else (z, feature + sign * step) for sign in (1, -1)
        ]
        plus, minus = (double(*inputs).square().sum() for inputs in shifted)
        assert (plus - minus).item() / 2e-6 == pytest.approx(x.grad.norm().item(), rel=1e-4)
    with pytest.raises(ValueError, match="at least 20 and exactly 2048 columns"):
        tiny(torch.zeros(1, 19), unit(1))


def test_published_configuration():
    """All 198 keys of the 256 px generator load strictly; parameter counts are the published."""
    table = [
        line.split("\t")
        for line in (GOLDENS / "keys_256.tsv").read_text().splitlines()[1:]
        if line[0] != "#"
    ]
    shapes = {
        name: () if shape == "scalar" else tuple(map(int, shape.split("x")))
        for name, shape, *_ in table
    }
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert len(state) == 198 and generator_config(state) == FULL and official_shapes(FULL) == shapes
    generator = generator_from_state(state)
    assert (generator.resolution, generator.z_width) == (256, 119)
    with torch.device("meta"):
        assert generator(torch.empty(2, 128), torch.empty(2, 2048)).shape == (2, 3, 256, 256)
    encoder = resnet50()
    assert generator.parameters_published == 90_014_340
    assert (
        generator.parameters_published + sum(p.numel() for p in encoder.parameters()) == 115_571_372
    )
    half = FULL | dict(channels=[1024, 1024, 512, 512, 256, 128, 64])
    px128 = FULL | dict(channels=[1536, 1536, 768, 384, 192, 96], chunk=20)
    px64 = FULL | dict(channels=[1024, 1024, 512, 256, 128], attention=[2], chunk=24)
    for config, size, parameters in (
        (half, 256, 42_860_804),
        (px128, 128, 77_160_132),
        (px64, 64, 36_655_876),
    ):
        state = {
            name: torch.empty(shape, device="meta")
            for name, shape in official_shapes(config).items()
        }
        generator = generator_from_state(state)
        assert generator_config(state) == config
        assert (generator.resolution, generator.parameters_published) == (size, parameters)
    encoder = {
        name: value for name, value in encoder.state_dict().items() if not name.startswith("fc.")
    }
    assert len(encoder) == 318 and backbone_from_state(encoder).inplanes == 2048


def test_wrong_states_are_refused(capsys):
    state = official_state("tiny")
    wrong = {name: value for name, value in state.items() if name != "blocks.1.0.conv2.u0"} | {
        "extra": torch.ones(1)
    }
    wrong["linear.bias"] = torch.ones(3)
    sentence = refused(capsys, generator_from_state, wrong, "file.pth")
    assert (
        "missing: blocks.1.0.conv2.u0; unexpected: extra; of another shape: linear.bias" in sentence
    )
    conditional = {
        name: torch.cat([value, value[:, :8]], 1)
        if ".gain.weight" in name or ".bias.weight" in name
        else value
        for name, value in state.items()
    }
    assert "class-conditional" in refused(capsys, generator_from_state, conditional)
    assert "it lacks blocks.0" in refused(capsys, generator_from_state, {"a": torch.ones(1)})
    del state["shared_feat.weight"]
    assert "lacks shared_feat.weight" in refused(capsys, generator_from_state, state)


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

    fixed = feature_map.noise_vectors(
        [run.seed_rng(0, path, "z") for path in paths], generator.z_width
    )
    still = generated("--feature-noise", 0, views=2)
    assert same(still[0], fixed, feature) and torch.equal(still[0], still[1])
    noisy = generated("--feature-noise", 0.05, "--feature-truncation", 1.5, views=2)
    for view in range(2):
        draws = [run.seed_rng(0, path, view) for path in paths]
        assert same(noisy[view], fixed, feature_map.feature_noise(feature, 0.05, 1.5, draws))
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


# ---------------------------------------------------------------- training
def small_generator():
    """16 px in the official format, random: 64 features, to train on a CPU in seconds."""
    config = dict(
        channels=[64, 32, 32], attention=[], chunk=4, embedding=32, feature=64, labels=(10, 8)
    )
    rng, state = torch.Generator().manual_seed(0), {}
    for name, shape in official_shapes(config).items():
        state[name] = torch.randn(shape, generator=rng)
        if name.endswith("stored_var"):
            state[name] = state[name].abs() + 0.5
    for name in ("output_layer.0.gain", "output_layer.0.bias", "output_layer.2.bias"):
        state[name] *= 0.2  # so that tanh does not saturate
    return generator_from_state(state)


def load_trainer():
    spec = importlib.util.spec_from_file_location(
        "train_augmenter", ROOT / "extras" / "train_augmenter.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trainer(monkeypatch):
    """extras/train_augmenter.py on random feature maps, with a SimCLR model of one convolution."""
    module = load_trainer()

    def small_backbone(name, small_images):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 4, 2),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
        ), 128

    def load_icgan(path):
        return small_generator(), torch.nn.Identity(), {}

    def encode(args, device, encoder, paths):
        return unit(len(paths), 64, args.seed)

    monkeypatch.setattr(module, "build_backbone", small_backbone)
    monkeypatch.setattr(module, "choose_images", lambda args: [f"{i}.png" for i in range(160)])
    monkeypatch.setattr(module, "held_out", lambda n: 32)
    monkeypatch.setattr(module, "encode", encode)
    monkeypatch.setattr(feature_map, "load_icgan", load_icgan)

    def train(out, *flags):
        flags = [*flags, "--data", "none", "--out", str(out), "--precision", "fp32"]
        module.main(module.arguments(flags), torch.device("cpu"))
        return json.loads((out / "result.json").read_text())["results"]

    return train


STEER = ("steer", "--batch-size", "8", "--learning-rate", "2e-2")
NAVIGATE = ("navigator", "--batch-size", "16", "--learning-rate", "5e-3", "--feature-noise", "0.05")


@pytest.mark.parametrize("kind", ["brightness", "zoom", "shift"])
def test_steering_comes_closer_to_the_edit(kind, trainer, tmp_path):
    """On held-out feature maps, for three seeds."""
    for seed in range(3):
        found = trainer(
            tmp_path / str(seed), *STEER, "--edit", kind, "--seed", str(seed), "--steps", "50"
        )
        assert found["edit_error"]["steered"] < 0.99 * found["edit_error"]["unsteered"]
        feature_map.load_direction(tmp_path / str(seed) / "direction.pt", 64)
        assert (tmp_path / str(seed) / "samples.png").exists()


def test_edits():
    """Brighter by a share of the range, moved right, magnified; the mask is set inside."""
    edit = load_trainer().edit
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
        found = trainer(tmp_path / str(seed), *NAVIGATE, "--seed", str(seed), "--steps", "70")[
            "contrastive_loss"
        ]
        assert found["navigator"] > found["noise"] + 0.05
        navigator = feature_map.load_navigator(tmp_path / str(seed) / "navigator.pt", 64)
        assert navigator.bound.item() == pytest.approx(feature_map.noise_norm(0.05, 2.0, 64))
        assert (tmp_path / str(seed) / "samples.png").exists()


@pytest.mark.parametrize(
    "flags, file, stop",
    [((*STEER, "--edit", "zoom"), "direction.pt", 4), (NAVIGATE, "navigator.pt", 8)],
)
def test_interrupted_training_continues(flags, file, stop, trainer, tmp_path, monkeypatch, capsys):
    """Stopped within the fourth of six steps and begun again: as if it had not been stopped."""
    flags, step, calls = (*flags, "--steps", "6"), torch.optim.Adam.step, []

    def stopping(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    whole = trainer(tmp_path / "whole", *flags)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", stopping)
        trainer(tmp_path / "cut", *flags, "--checkpoint-minutes", "0")
    assert run.load(tmp_path / "cut" / "checkpoint.pth")["step"] == 3
    assert trainer(tmp_path / "cut", *flags) == whole
    for a, b in zip(
        *(run.load(tmp_path / out / file).values() for out in ("cut", "whole")), strict=True
    ):
        assert torch.equal(a, b)
    capsys.readouterr()
    trainer(tmp_path / "cut", *flags)
    assert "is finished" in capsys.readouterr().out


def test_training_commands(photographs, release, tmp_path, capsys):
    """Both commands as a user gives them; what they write is what 02_augment.py takes."""
    common = ("--data", photographs, "--weights", release, "--workers", 0, "--steps", 2)
    steer = ("steer", "--edit", "shift", "--batch-size", 2, *common, "--out", tmp_path / "s")
    stage("extras/train_augmenter.py", *steer)
    navigator = ("navigator", "--backbone", "resnet10", *common)
    call("extras/train_augmenter.py", *navigator, "--batch-size", 2, "--out", tmp_path / "n")
    files = ("--steer", tmp_path / "s/direction.pt", "--navigator", tmp_path / "n/navigator.pt")
    made = strategy(photographs, release, *files)
    assert made.record["files"]["navigator"] == run.file_hash(tmp_path / "n/navigator.pt")
    for flags in (("--batch-size", 1), ("--batch-size", 50)):
        flags = (*navigator, *flags, "--out", tmp_path / "x")
        assert "--batch-size" in refused_stage(capsys, "extras/train_augmenter.py", *flags, code=2)
    flags = (*navigator, "--batch-size", 2, "--out", photographs / "x")
    assert "lies inside --data" in refused_stage(capsys, "extras/train_augmenter.py", *flags)
    several = stage("extras/train_augmenter.py", *steer, processes=2, code=1)
    assert "start it with python, not with torchrun" in several.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_training_with_workers_that_are_not_forked(method, photographs, release, tmp_path):
    command = ("extras/train_augmenter.py", "steer", "--edit", "shift", "--data", photographs)
    flags = ("--weights", release, "--workers", 1, "--steps", 1, "--batch-size", 2)
    stage("tests/start_method.py", method, *command, *flags, "--out", tmp_path / "s")
    feature_map.load_direction(tmp_path / "s" / "direction.pt", 2048)


def test_other_images_than_at_the_start(photographs, release, tmp_path, capsys):
    """A finished run says so; with other images or weights it is refused."""
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    command = ("extras/train_augmenter.py", "steer", "--edit", "shift", "--data", data)
    command = (*command, "--weights", release, "--workers", 0, "--steps", 1, "--batch-size", 2)
    command = (*command, "--out", tmp_path / "s")
    call(*command)
    capsys.readouterr()
    call(*command)
    assert "is finished" in capsys.readouterr().out
    (data / "class0" / "0.png").rename(data / "class0" / "other.png")
    assert "started with another image names" in refused_stage(capsys, *command, code=2)
