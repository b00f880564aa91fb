"""IC-GAN: the files of a release, its inputs, changes of the feature map, the two strategies."""

import argparse
import io
import os
import pickle
import shutil
import tarfile

import feature_noise
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call, hashes, sentence
from conftest import run as stage
from icgan_release import GOLDENS, TOLERANCE, error, official_state, rngs, unit
from PIL import Image
from scipy import stats
from scipy.special import ndtr, ndtri
from torchvision.models.resnet import Bottleneck, ResNet

from augment import noise
from augment.registry import STRATEGIES
from base import run
from models.biggan import generator_from_state

CPU = torch.device("cpu")


def pack(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if not isinstance(member, tarfile.TarInfo):
                name, content = member
                member = tarfile.TarInfo(name)
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content if member.size else b""))
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
    monkeypatch.setenv("GCL_WEIGHTS", str(release))  # of the encoder, where it lies not beside
    for path in (release, release.parent, release / "G_ema_best0.pth", tarball):
        generator, encoder, files = noise.load_icgan(path, CPU)
        assert error("tiny", generator) < TOLERANCE
        assert not generator.training and not any(p.requires_grad for p in generator.parameters())
        read = tarball if path == tarball else release / "G_ema_best0.pth"
        assert files == {file.name: run.file_hash(file) for file in (read, release / noise.SWAV)}
    torch.manual_seed(0)  # as the fixture
    reference = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    reference.fc = torch.nn.Identity()
    images = torch.randint(256, (2, 256, 256, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = F.normalize(reference(noise.encoder_input(images)))
        assert torch.allclose(noise.encode(encoder, images), expected, atol=1e-6)
    several = tmp_path / "several"
    several.mkdir()
    state = official_state("tiny")
    torch.save(state, several / "G_ema_best0.pth")
    for name in ("G_ema.pth", "G_ema_copy0.pth"):
        torch.save({key: value + 1 for key, value in state.items()}, several / name)
    capsys.readouterr()
    assert error("tiny", noise.load_icgan(several, CPU)[0]) < TOLERANCE
    (several / "G_ema_best0.pth").unlink()
    assert "holds 2 G_ema_*.pth" in sentence(capsys, noise.load_icgan, several, CPU)


def test_names_in_a_tarball_lead_nowhere(release, tmp_path, monkeypatch):
    """Only the generator's content is copied, whatever the members are called."""
    monkeypatch.setenv("GCL_WEIGHTS", str(release))
    good = (release / "G_ema_best0.pth").read_bytes()
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ("a/../../G_ema_best0.pth", f"{tmp_path}/G_ema_best0.pth", "a/G_ema_best0.pth")
    for i, name in enumerate(names):
        tarball = pack(inner / f"{i}.tar.gz", (name, good), ("../x", b""))
        assert error("tiny", noise.load_icgan(tarball, CPU)[0]) < TOLERANCE
    assert len(list(inner.iterdir())) == 3 and list(tmp_path.iterdir()) == [inner]


def test_bad_release_files(release, tmp_path, capsys, monkeypatch):
    def reason(path):
        return sentence(capsys, noise.load_icgan, path, CPU)

    good = (release / "G_ema_best0.pth").read_bytes()
    link = tarfile.TarInfo("icgan/G_ema_best0.pth")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "holds 0 G_ema" in reason(pack(tmp_path / "link.tar.gz", link))
    assert "holds 0 G_ema" in reason(pack(tmp_path / "none.tar.gz", ("a/G_best0.pth", good)))
    two = pack(tmp_path / "two.tar.gz", ("a/G_ema_best0.pth", good), ("b/G_ema_best0.pth", good))
    assert "holds 2 G_ema_*.pth" in reason(two)
    (tmp_path / "cut.tar.gz").write_bytes(two.read_bytes()[:100_000])
    assert "cannot be read as a tarball" in reason(tmp_path / "cut.tar.gz")
    evil = tmp_path / "G_ema_best0.pth"
    torch.save({"shared.weight": Evil(tmp_path / "executed")}, evil)
    assert "refused" in reason(evil)
    packed = pack(tmp_path / "evil.tar.gz", ("a/G_ema_best0.pth", evil.read_bytes()))
    assert "evil.tar.gz" in reason(packed)
    evil.write_bytes(pickle.dumps(Evil(tmp_path / "executed"), protocol=2))
    assert "G_ema_best0.pth" in reason(evil)
    assert not (tmp_path / "executed").exists()
    assert "refused" in reason(release / "state_dict_best0.pth")  # objects, and no weights
    torch.save({"model": {"a": torch.ones(1)}}, evil)
    assert "not a flat dictionary of tensors" in reason(evil)
    assert "cannot be read (No such file" in reason(tmp_path / "nowhere")
    swav = tmp_path / noise.SWAV
    shutil.copy(release / "G_ema_best0.pth", evil)
    state = torch.load(release / noise.SWAV, weights_only=True)
    torch.save(state | {"module.layer1.0.other": torch.ones(1)}, swav)
    assert "other" in reason(evil)
    del state["module.layer3.0.bn2.weight"]
    torch.save(state, swav)
    assert "layer3.0.bn2.weight" in reason(evil)


def test_inputs_have_the_published_law():
    golden = np.load(GOLDENS / "preprocess.npz")
    squares = torch.from_numpy(noise.demo_square(golden["image"]).copy())[None]
    ours = noise.encoder_input(squares)[0, :, ::7, ::7].numpy()
    assert np.abs(ours - golden["demo"]).max() < 1e-5
    assert np.abs(golden["demo"] - golden["training"]).max() > 0.03  # the other way is told apart
    # The published law, and each row a function of its own generator alone.
    z = noise.noise_vectors(rngs(200, "z"), 119)
    assert z.dtype == torch.float32 and stats.kstest(z.flatten(), "norm").pvalue > 0.01
    assert torch.equal(noise.noise_vectors(rngs(200, "z")[3:5], 119), z[3:5])


def test_changes_of_the_feature_map_and_inversion():
    feature = unit(64)
    unmoved = feature_noise.add_noise(feature, 0.0, rngs(64))
    assert torch.allclose(unmoved, feature, atol=1e-7)
    moved = feature_noise.add_noise(feature, 0.05, rngs(64))
    drawn = np.stack([ndtri(rng.uniform(ndtr(-2), 1 - ndtr(-2), 2048)) for rng in rngs(64)])
    assert stats.kstest(drawn.flatten(), stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    drawn = 0.05 * torch.from_numpy(drawn).float()
    assert torch.allclose(moved, F.normalize(feature + drawn)) and drawn.abs().max() <= 0.1
    norm = float(drawn.norm(dim=1).square().mean().sqrt())
    assert norm == pytest.approx(feature_noise.noise_norm(0.05, 2048), rel=0.01)
    part = feature_noise.add_noise(feature[5:7], 0.05, rngs(64)[5:7])
    assert torch.equal(part, moved[5:7])
    angles = []
    for std in (0.01, 0.03, 0.1):
        moved = feature_noise.add_noise(feature, std, rngs(64))
        angles.append(F.cosine_similarity(moved, feature).mean())
    assert angles == sorted(angles, reverse=True)
    a, b = unit(3), unit(3, seed=1)
    assert torch.allclose(steering(b[0])(a, 0.5), F.normalize(a + 0.5 * b[0]))
    feature, navigator = unit(8), feature_noise.Navigator(2048, bound=0.3)
    step = navigator.layer(feature)
    assert step.norm(dim=1).min() > 0.3  # so the bound acts
    expected = F.normalize(feature + 0.3 * F.normalize(step))
    assert torch.allclose(navigator(feature), expected, atol=1e-6)
    navigator.bound.fill_(100.0)
    assert torch.allclose(navigator(feature), F.normalize(feature + step), atol=1e-6)
    tiny = generator_from_state(official_state("tiny"))
    feature, z0 = unit(3), noise.noise_vectors(rngs(3, "start"), 24)
    with torch.inference_mode():
        target = tiny(noise.noise_vectors(rngs(3, "target"), 20), feature)
        distances = []
        for steps in (0, 5, 20):
            z = noise.invert(tiny, feature, target, z0, steps)
            distances.append((tiny(z, feature) - target).square().mean((1, 2, 3)))
        alone = noise.invert(tiny, feature[1:2], target[1:2], z0[1:2], 20)
    assert torch.equal(noise.invert(tiny, feature, target, z0, 0), z0)
    assert (distances[1] < distances[0]).all() and (distances[2] < 0.7 * distances[0]).all()
    assert torch.allclose(alone, z[1:2], atol=1e-4) and torch.equal(z[:, 20:], z0[:, 20:])


def steering(direction):
    change = feature_noise.Steering(len(direction))
    change.direction.data = direction
    return change


def strategy(parts, release, name, *flags):
    p = argparse.ArgumentParser()
    STRATEGIES[name].add_arguments(p)
    args = p.parse_args(["--weights", str(release), *map(str, flags)])
    args.data, args.seed, args.precision = str(parts), 0, "fp32"
    return STRATEGIES[name].build(args, CPU)


def test_every_option_acts(parts, release, tmp_path, monkeypatch, capsys):
    loaded = noise.load_icgan(release, CPU)
    generator, encoder, _ = loaded
    monkeypatch.setattr(noise, "load_icgan", lambda path, device: loaded)
    paths = ["class0/0.png", "class1/1.png"]
    squares = [noise.read_demo_square(parts / path) for path in paths]
    images = torch.from_numpy(np.stack(squares))
    feature = noise.encode(encoder, images)
    rngs_of = [[run.seed_rng(0, path, view) for path in paths] for view in range(2)]
    z = [noise.noise_vectors(rngs, generator.z_width) for rngs in rngs_of]

    def generated(name, *flags, views=1):
        made = strategy(parts, release, name, "--views", views, *flags)
        views = made.generate(images, paths)
        assert views.dtype == torch.uint8 and views.shape[1:] == (2, 64, 64, 3)
        return views.float()

    def same(views, z, feature):  # to a gray level: rounding
        expected = (generator(z, feature) + 1) * 127.5
        return bool((views - expected.permute(0, 2, 3, 1)).abs().max() < 1.01)

    made = strategy(parts, release, "noise")
    assert (made.size, made.views) == (64, ["view0"])
    assert np.array_equal(made.read(parts / paths[0]), images[0])
    pickle.dumps(made.read)  # so that it can be sent to any worker process
    plain = generated("noise", views=2)
    assert same(plain[0], z[0], feature) and same(plain[1], z[1], feature)
    assert not torch.equal(plain[0], plain[1])
    assert torch.equal(generated("feature-noise", views=2), plain)
    assert same(generated("feature-noise", "--feature-noise", 0)[0], z[0], feature)
    noisy = generated("feature-noise", "--feature-noise", 0.05, views=2)
    for view in range(2):
        draws = [run.seed_rng(0, path, "feature noise", view) for path in paths]
        assert same(noisy[view], z[view], feature_noise.add_noise(feature, 0.05, draws))
        assert not torch.equal(noisy[view], plain[view])
    inverted = generated("noise", "--invert-steps", 10)[0]
    target = images.permute(0, 3, 1, 2).float()
    target = F.interpolate(target, 64, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    before, after = ((views - target).square().mean((1, 2, 3)) for views in (plain[0], inverted))
    assert (after < before).all()
    direction, navigator = unit(1, seed=5)[0], feature_noise.Navigator(2048, bound=0.5)
    torch.save({"direction": direction}, tmp_path / "direction.pt")
    torch.save(navigator.state_dict(), tmp_path / "navigator.pt")
    files = [("--steer", tmp_path / "direction.pt"), ("--navigator", tmp_path / "navigator.pt")]
    steered = generated("feature-noise", *files[0])[0]
    assert same(steered, z[0], steering(direction)(feature))
    assert not torch.equal(steered, plain[0])
    navigated = generated("feature-noise", *files[1])[0]
    assert same(navigated, z[0], navigator(feature)) and not torch.equal(navigated, plain[0])
    both = files[0] + files[1]
    changed = navigator(steering(direction)(feature))
    assert same(generated("feature-noise", *both)[0], z[0], changed)
    torch.save({"direction": direction[:64]}, tmp_path / "direction.pt")
    torch.save({}, tmp_path / "navigator.pt")
    for flags in files:
        command = (parts, release, "feature-noise", *flags)
        assert flags[1].name in sentence(capsys, strategy, *command)


def test_noise_end_to_end(parts, release, tmp_path):
    """Twice equal files, with other batches equal up to rounding; a bad file is a sentence."""
    common = ("noise", "--data", parts, "--weights", release, "--workers", 0, "--batch-size")
    stage("02_augment.py", *common, 4, "--out", tmp_path / "a")
    call("02_augment.py", *common, 4, "--out", tmp_path / "b")
    call("02_augment.py", *common, 1, "--out", tmp_path / "c")
    a, b, c = (hashes(tmp_path / out, "view0/*/*") for out in "abc")
    assert len(a) == 6 and a == b and a.keys() == c.keys()
    for name in a:
        one, other = (np.asarray(Image.open(tmp_path / out / name)).astype(int) for out in "ac")
        assert np.abs(one - other).max() <= 1
    assert (tmp_path / "a" / "samples.png").exists()
    wrong = f"02_augment.py noise --data {parts} --weights {release}/state_dict_best0.pth"
    stage(f"{wrong} --out {tmp_path}/d", code=1)
