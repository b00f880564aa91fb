"""07_metrics.py: FID against pytorch-fid, SSIM against scikit-image, cost on tiny generators."""

import json
import pickle
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import PRETRAIN, ROOT, call, hashes, refused, run
from PIL import Image

from models import fid
from models.images import write_image
from models.ssim import structural_similarity

SCRIPT = "07_metrics.py"


@pytest.fixture(scope="session")
def photographs():
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [
        *load_sample_images().images,
        data.astronaut(),
        data.coffee(),
        data.chelsea(),
        data.rocket(),
    ]


@pytest.fixture(scope="session")
def folders(tmp_path_factory, photographs):
    """a: crops of photographs, b: the same, changed; 8 each, 64 px PNG, in two class folders."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(8):
        photo = photographs[i % len(photographs)]
        top, left = (rng.integers(0, side - 128) for side in photo.shape[:2])
        crop = photo[top : top + 128 : 2, left : left + 128 : 2]
        changed = np.clip(0.8 * crop + rng.integers(-30, 30, crop.shape) + 20, 0, 255).astype(
            np.uint8
        )
        write_image(root / "a" / f"class{i % 2}" / f"{i:02d}.png", crop)
        write_image(root / "b" / f"class{i % 2}" / f"{i:02d}.png", changed)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A random state dict under the official names (torchvision's, 1008 classes, no auxiliary head)."""
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    rng = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if "running" in name or "bn.weight" in name:
            value.uniform_(0.5, 1.5, generator=rng)
        elif "bn.bias" in name:
            value.normal_(0, 0.3, generator=rng)
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def official(weights, folders):
    """pytorch-fid with these weights: (network, (mu, sigma) of each folder, the FID).

    Its square root of a matrix takes a minute at 2048 features. All moments of 2 x 8 images lie in 16 dimensions:
    in a basis of those the distance is the same."""
    import pytorch_fid.inception as theirs
    from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance

    original = theirs.load_state_dict_from_url
    theirs.load_state_dict_from_url = lambda *_, **__: torch.load(weights)
    network = theirs.InceptionV3().eval()
    theirs.load_state_dict_from_url = original
    files = [sorted((folders / side).rglob("*.png")) for side in "ab"]
    found = [calculate_activation_statistics(f, network, 4, num_workers=0) for f in files]
    spanning = np.stack(
        [found[0][0] - found[1][0], *(row for _, sigma in found for row in sigma[:40])]
    )
    basis = np.linalg.svd(spanning, full_matrices=False)[2][:16]
    assert all(
        np.trace(basis @ sigma @ basis.T) == pytest.approx(np.trace(sigma), rel=1e-9)
        for _, sigma in found
    )
    projected = [
        statistic for mu, sigma in found for statistic in (basis @ mu, basis @ sigma @ basis.T)
    ]
    return network, found, calculate_frechet_distance(*projected)


# ---------------------------------------------------------------- FID
def test_inception_is_pytorch_fids(weights, official, photographs):
    ours, _ = fid.load_inception(weights)
    images = torch.from_numpy(np.stack([p[:150, :170] for p in photographs[:2]]))
    with torch.no_grad():
        theirs = official[0](images.permute(0, 3, 1, 2).float() / 255)[0][:, :, 0, 0]
        torch.testing.assert_close(ours(images), theirs, rtol=1e-5, atol=1e-6)


def test_inception_of_another_kind(tmp_path, weights):
    state = torch.load(weights)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # as PyTorch before 0.4.1 wrote them
    fid.load_inception(tmp_path / "old.pth")
    del old["Mixed_7c.branch1x1.conv.weight"]
    torch.save(old, tmp_path / "part.pth")
    with pytest.raises(SystemExit):
        fid.load_inception(tmp_path / "part.pth")


def test_fid_is_pytorch_fids(folders, weights, official, tmp_path, capsys):
    """The whole command, the cache, and pytorch-fid's own file."""
    common = ("--weights", weights, "--workers", 0, "--batch-size", 5)
    call(SCRIPT, "fid", folders / "a", folders / "b", *common, "--cache", "one")
    printed = capsys.readouterr()
    assert "8 images, fewer than the 2048 features" in printed.err
    value = float(printed.out.split(": ")[-1])
    assert value == pytest.approx(official[2], rel=1e-4)
    with np.load(folders / "a.one.npz") as file:
        mu, sigma = file["mu"], file["sigma"]
    np.testing.assert_allclose(mu, official[1][0][0], rtol=1e-4)
    np.testing.assert_allclose(sigma, official[1][0][1], atol=1e-4 * np.abs(sigma).max())
    np.savez(tmp_path / "theirs.npz", mu=official[1][0][0], sigma=official[1][0][1])
    call(SCRIPT, "fid", tmp_path / "theirs.npz", folders / "b", *common, "--cache", "one")
    assert float(capsys.readouterr().out.split(": ")[-1]) == pytest.approx(value, rel=1e-4)
    said = refused(
        capsys, SCRIPT, "fid", folders / "a", folders / "b", *common, "--cache", "one", "--size", 32
    )
    assert "other settings (size was 0, now 32)" in said


def test_moments_of_batches():
    rng = np.random.default_rng(0)
    rows = (
        rng.standard_normal((300, 40)) * np.linspace(0.1, 3, 40) + 1000
    )  # far from zero: sums of squares would fail
    moments = fid.Moments(40)
    for part in np.split(rows, [1, 7, 120, 121]):
        moments.add(torch.from_numpy(part))
    n, mean, covariance = moments.result()
    assert n == 300
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n1, n2", [(500, 600), (40, 700), (700, 40), (30, 50), (2, 3)])
def test_frechet_distance(n1, n2):
    """Against the exact value from the samples (the trace term is a sum of singular values), and pytorch-fid's."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng, width = np.random.default_rng(n1), 100
    x = rng.standard_normal((n1, width)) * np.linspace(0.001, 2, width)
    y = (
        rng.standard_normal((n2, width))
        @ (np.eye(width) + 0.1 * rng.standard_normal((width, width)))
        + 0.3
    )
    statistics = [s for z in (x, y) for s in (z.mean(0), np.cov(z, rowvar=False))]
    root = np.linalg.svd((x - x.mean(0)) @ (y - y.mean(0)).T, compute_uv=False).sum() / np.sqrt(
        (n1 - 1) * (n2 - 1)
    )
    exact = (
        ((x.mean(0) - y.mean(0)) ** 2).sum()
        + np.trace(statistics[1])
        + np.trace(statistics[3])
        - 2 * root
    )
    value = fid.frechet_distance(*statistics)
    assert value == pytest.approx(exact, rel=1e-9)
    assert value == pytest.approx(
        calculate_frechet_distance(*statistics), rel=1e-6 if min(n1, n2) > width else 1e-5
    )
    assert fid.frechet_distance(*statistics[:2], *statistics[:2]) == pytest.approx(0, abs=1e-8)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A run folder with a small untrained network."""
    from models.resnet import build_backbone

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    torch.save(build_backbone("resnet10", True)[0].state_dict(), folder / "backbone.pth")
    (folder / "args.json").write_text('{"stage": "03_pretrain", "size": 32}')
    return folder


def test_features_of_a_backbone(folders, backbone, capsys):
    command = (
        "fid",
        folders / "a",
        folders / "b",
        "--features",
        backbone,
        "--size",
        32,
        "--workers",
        0,
        "--cache",
        "resnet",
    )
    call(SCRIPT, *command)
    first = capsys.readouterr()
    assert (
        "Frechet distance (resnet10 features)" in first.out
        and "fewer than the 256 features" in first.err
    )
    call(SCRIPT, *command)
    assert capsys.readouterr().out == first.out
    run(SCRIPT, *command[:-1], "two", "--batch-size", 3, processes=2)
    with np.load(folders / "a.resnet.npz") as one, np.load(folders / "a.two.npz") as two:
        assert one["n"] == two["n"] == 8
        for key in ("mu", "sigma"):
            np.testing.assert_allclose(
                two[key], one[key], rtol=1e-4, atol=1e-6 * np.abs(one[key]).max()
            )


def write_noise(root, number, rng, invert=False):
    """BMPs: of equal sizes whatever is in them."""
    for i in range(number):
        pixels = rng.integers(0, 120, (32, 32, 3)).astype(np.uint8)
        (root / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels if invert else pixels).save(root / "a" / f"{i:02d}.bmp")


def test_fid_of_changed_pixels(backbone, tmp_path, capsys):
    """Names and sizes stay, the pixels change: what was kept of the folder does not count."""
    write_noise(tmp_path / "a", 12, np.random.default_rng(0))
    write_noise(tmp_path / "b", 12, np.random.default_rng(1))
    command = ("fid", tmp_path / "a", tmp_path / "b", "--features", backbone, "--workers", 0)
    call(SCRIPT, *command)
    before = capsys.readouterr()
    assert "kept" not in before.err and "unchanged" not in before.err
    call(SCRIPT, *command)
    again = capsys.readouterr()
    assert again.out == before.out
    assert f"{tmp_path / 'a'}: unchanged, its statistics are read from" in again.err
    write_noise(tmp_path / "b", 12, np.random.default_rng(1), invert=True)
    call(SCRIPT, *command)
    after = capsys.readouterr()
    assert f"{tmp_path / 'b'}: unchanged" not in after.err
    values = [float(said.out.split(": ")[-1]) for said in (before, after)]
    assert values[1] > 2 * values[0]
    call(SCRIPT, *command, "--cache", "fresh")
    assert capsys.readouterr().out == after.out


def test_fid_twice_under_two_processes(backbone, tmp_path, folders):
    """The second time all comes from the cache; also of a folder and itself."""
    for side in ("a", "b"):
        shutil.copytree(folders / side, tmp_path / side)
    options = ("--features", backbone, "--workers", 0, "--size", 32)
    first = run(SCRIPT, "fid", tmp_path / "a", tmp_path / "b", *options, processes=2)
    again = run(SCRIPT, "fid", tmp_path / "a", tmp_path / "b", *options, processes=2)
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert again.stderr.count("unchanged") == 2
    (tmp_path / "a.fid.npz").unlink()
    itself = run(SCRIPT, "fid", tmp_path / "a", tmp_path / "a", *options, processes=2)
    assert itself.stdout.splitlines()[-1].endswith(": 0.0000")


def test_images_of_many_sizes_are_one_batch(weights, photographs):
    """The features are those of each image alone, and the network is called once."""
    from models.feature_statistics import read_batch

    network, _ = fid.load_inception(weights)
    images = [photographs[0][: 90 + 10 * i, : 80 + 7 * i] for i in (0, 1, 0, 2)]
    stacks = [np.stack([images[0], images[2]]), images[1][None], images[3][None]]
    stacks = [torch.from_numpy(np.ascontiguousarray(stack)) for stack in stacks]
    calls = []
    network.Mixed_7c.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        together = network(stacks)
        alone = torch.cat([network(stack) for stack in stacks])
    assert len(calls) == 1 + 3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert callable(pickle.loads(pickle.dumps(partial(read_batch, size=0))))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forked(method, folders, backbone, tmp_path):
    code = (
        "import multiprocessing, runpy, sys\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{method}')\n"
        "    sys.argv = sys.argv[1:]\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    fid_flags = ["fid", "--features", backbone, "--cache", method, "--size", 32]
    for flags in (fid_flags, ["ssim", "--out", tmp_path / "ssim"]):
        words = [SCRIPT, flags[0], folders / "a", folders / "b", *flags[1:], "--workers", 1]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_features_that_are_not_finite(folders, backbone, tmp_path, capsys, monkeypatch):
    """The sentence names the first image."""
    from models.resnet import ResNet

    forward = ResNet.forward

    def broken(self, x):
        features = forward(self, x)
        features[3:, 0] = torch.nan
        return features

    monkeypatch.setattr(ResNet, "forward", broken)
    options = ("--features", backbone, "--workers", 0, "--size", 32, "--cache", "broken")
    said = refused(capsys, SCRIPT, "fid", folders / "a", folders / "b", *options)
    assert f"{folders / 'a' / 'class0' / '06.png'} are not finite" in said
    assert not (folders / "a.broken.npz").exists()
    monkeypatch.undo()
    bad = {"mu": np.full(256, np.nan), "sigma": np.eye(256), "settings": "{}"}
    np.savez(tmp_path / "nan.npz", **bad)
    said = refused(capsys, SCRIPT, "fid", tmp_path / "nan.npz", folders / "b", *options)
    assert "not finite" in said


def test_a_mirror_with_other_extensions(tiny, backbone, tmp_path, capsys):
    """Any extension will do; originals that could not be read are left out, in words."""
    mirror = tmp_path / "mine"
    shutil.copytree(tiny["inpaint"], mirror)
    (mirror / "view0").rename(mirror / "old")
    for number, file in enumerate(sorted((mirror / "old").rglob("*.png"))):
        target = mirror / "view0" / file.relative_to(mirror / "old")
        target.parent.mkdir(parents=True, exist_ok=True)
        if number:
            image = Image.open(file)
            image.save(target.with_suffix((".JPEG", ".webp", ".PNG", ".jpeg")[number % 4]))
        else:
            missing = file.relative_to(mirror / "old").as_posix()
    shutil.rmtree(mirror / "old")
    (mirror / "failed.jsonl").write_text(json.dumps({"path": missing, "reason": "cut"}) + "\n")
    options = ("--workers", 0, "--size", 32)
    call(SCRIPT, "fid", tiny["train"], mirror / "view0", "--features", backbone, *options)
    said = capsys.readouterr()
    assert "1 images of" in said.err and "are left out" in said.err
    assert "(23 images)" in said.out
    call(SCRIPT, "ssim", tiny["train"], mirror / "view0", *options)
    assert "(23 pairs)" in capsys.readouterr().out


def test_fid_bad_input(folders, tmp_path, capsys):
    options = ("--features", "random", "--workers", 0)
    four = {"mu": np.zeros(4), "sigma": np.eye(4)}
    for name, content, sentence in (
        ("text.npz", {"x": np.zeros(3)}, "mu and sigma"),
        ("made.npz", four, "does not say which features"),
        ("small.npz", four | {"settings": "{}"}, "4 features, these have 2048"),
    ):
        np.savez(tmp_path / name, **content)
        assert sentence in refused(capsys, SCRIPT, "fid", tmp_path / name, folders / "b", *options)
    mirror = tmp_path / "mirror"
    for file in sorted((folders / "b").rglob("*.png"))[2:]:
        target = mirror / "view0" / file.relative_to(folders / "b")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    (mirror / "augment.json").write_text("{}")
    said = refused(capsys, SCRIPT, "fid", folders / "a", mirror / "view0", *options)
    assert "2 are only in" in said and "class0/00.png, class0/02.png" in said
    assert "give one of its views" in refused(capsys, SCRIPT, "ssim", folders / "a", mirror)
    assert "is not a folder" in refused(
        capsys, SCRIPT, "fid", folders / "c", folders / "b", *options
    )


# ---------------------------------------------------------------- SSIM
def test_ssim_is_scikit_images(photographs):
    from skimage.metrics import structural_similarity as theirs

    options = dict(
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(64)[:, None, None] < 32, 250, np.full((64, 80, 3), 150)).astype(
        np.uint8
    )
    pairs = [(flat, 255 - flat), (flat, flat)]
    for photo in photographs:
        noisy = np.clip(photo + rng.integers(-40, 40, photo.shape), 0, 255).astype(np.uint8)
        pairs += [(photo, noisy), (photo, photo[:, ::-1]), (photo[:11, :13], noisy[:11, :13])]
    for x, y in pairs:
        assert structural_similarity(x, y) == pytest.approx(theirs(x, y, **options), abs=1e-9)


def test_ssim_command(folders, tmp_path, capsys):
    from PIL import Image

    call(SCRIPT, "ssim", folders / "a", folders / "b", "--out", tmp_path / "out", "--workers", 2)
    result = json.loads((tmp_path / "out" / "ssim.json").read_text())
    names = {str(f.relative_to(folders / "a")) for f in (folders / "a").rglob("*.png")}
    expected = {
        name: structural_similarity(
            *(np.asarray(Image.open(folders / side / name)) for side in "ab")
        )
        for name in names
    }
    assert result["values"] == pytest.approx(expected, abs=1e-6)
    assert result["least_similar"][0] == min(expected, key=expected.get)
    assert f"{np.mean(list(expected.values())):.4f}" in capsys.readouterr().out
    assert (tmp_path / "out" / "histogram.png").exists() and (
        tmp_path / "out" / "least_similar.png"
    ).exists()

    write_image(tmp_path / "x" / "1.png", np.zeros((40, 30, 3), np.uint8))
    write_image(tmp_path / "y" / "1.png", np.zeros((32, 32, 3), np.uint8))
    command = ("ssim", tmp_path / "x", tmp_path / "y", "--workers", 0)
    assert "30 x 40 px" in refused(capsys, SCRIPT, *command)
    call(SCRIPT, *command, "--size", 32)
    assert "1.0000" in capsys.readouterr().out
    assert "window is 11 x 11" in refused(capsys, SCRIPT, *command, "--size", 8)
    assert "hold different images" in refused(capsys, SCRIPT, "ssim", folders / "a", tmp_path / "x")


def test_ssim_leaves_the_mirror_alone(tiny, tmp_path, capsys):
    """Its results lie beside the mirror, so that nothing takes them for a view."""
    mirror = tmp_path / "gen"
    shutil.copytree(tiny["inpaint"], mirror)
    before = hashes(mirror)
    call(SCRIPT, "ssim", tiny["train"], mirror / "view0", "--workers", 0)
    assert hashes(mirror) == before
    assert (tmp_path / "gen.view0.ssim" / "ssim.json").exists()
    out = tmp_path / "run"
    flags = ("--data", tiny["train"], "--generated", mirror, "--out", out, "--epochs", 1)
    run("03_pretrain.py", *flags, *PRETRAIN, "--projector", "16-16")
    said = refused(
        capsys, SCRIPT, "ssim", tiny["train"], mirror / "view0", "--out", mirror / "view0" / "x"
    )
    assert "lies inside" in said


def test_ssim_under_two_processes(folders, tmp_path):
    options = ("ssim", folders / "a", folders / "b", "--workers", 0)
    run(SCRIPT, *options, "--out", tmp_path / "one")
    run(SCRIPT, *options, "--out", tmp_path / "two", processes=2)
    run(SCRIPT, *options, "--out", tmp_path / "two", processes=2)
    one, two = ((tmp_path / name / "ssim.json").read_text() for name in ("one", "two"))
    assert one == two


# ---------------------------------------------------------------- cost
@pytest.fixture(scope="session")
def mirrors(tiny):
    """Mirrors of the three hand-crafted augmentations, beside that of in-painting: {name: path}."""
    made = {"inpaint": tiny["inpaint"]}
    for name in ("crop", "jitter", "blur"):
        made[name] = tiny["root"] / name
        flags = ("--data", tiny["train"], "--out", made[name], "--size", 32, "--workers", 0)
        run("02_augment.py", name, *flags)
    return made


COST = ("--images", 2, "--compare", 8, "--batch-size", 4, "--workers", 0, "--size", 64)


def test_cost(mirrors, backbone, tmp_path, capsys):
    folders = list(mirrors.values())
    command = ("--out", tmp_path / "cost", *COST, "--features", backbone)
    call(SCRIPT, "cost", *folders, *command)
    assert "8 images, fewer than the 256" in capsys.readouterr().err
    found = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert found["rows"].keys() == {"inpaint", "crop", "jitter", "blur"}
    for row in found["rows"].values():
        assert row["images"] == 8 and row["timed"] == 2
        assert row["fid"] > 0
        assert -1 < row["ssim"] < 1
        assert row["latency_ms"] > 0
        assert row["batch_ms"] > 0
    assert found["rows"]["inpaint"]["parameters"] > 10_000
    assert found["rows"]["crop"]["parameters"] is None
    assert found["rows"]["blur"]["ssim"] > found["rows"]["crop"]["ssim"]
    assert found["ratios"].keys() == {"inpaint_over_jitter"}

    speed = ("--pretrain-images-per-second", 100, "--pretrain-gpus", 2)
    call(SCRIPT, "cost", *folders, *command, *speed)  # finished rows are kept
    again = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert again["rows"] == found["rows"]
    share = found["rows"]["inpaint"]["batch_ms"] / 2 / 1000 * 100
    assert again["ratios"]["generation_share"] == pytest.approx(share)
    assert "98.93" in capsys.readouterr().out
    said = refused(capsys, SCRIPT, "cost", *folders, *command, "--batch-size", 5)
    assert "--batch-size was 4, now 5" in said


def test_cost_is_what_fid_and_ssim_say(mirrors, tiny, backbone, tmp_path, capsys):
    """The row of a mirror has the values of the two commands for its view."""
    flags = ("--size", 32, "--workers", 0)
    command = ("cost", mirrors["blur"], "--out", tmp_path / "cost", *COST, "--compare", 100)
    call(SCRIPT, *command, *flags, "--features", backbone)
    row = json.loads((tmp_path / "cost" / "cost.json").read_text())["rows"]["blur"]
    assert row["images"] == 24
    view = mirrors["blur"] / "view0"
    capsys.readouterr()
    call(SCRIPT, "fid", tiny["train"], view, *flags, "--features", backbone, "--cache", "blur")
    assert float(capsys.readouterr().out.split(": ")[-1]) == pytest.approx(row["fid"], abs=1e-3)
    call(SCRIPT, "ssim", tiny["train"], view, *flags, "--out", tmp_path / "ssim")
    ssim = json.loads((tmp_path / "ssim" / "ssim.json").read_text())
    assert ssim["mean"] == pytest.approx(row["ssim"], abs=1e-9)


def test_cost_of_a_mirror_made_anew(mirrors, tiny, backbone, tmp_path):
    """A row stands for one mirror; another one under the same name is measured again."""
    mirror = tmp_path / "blur"
    shutil.copytree(mirrors["blur"], mirror)
    command = ("cost", mirror, "--out", tmp_path / "cost", *COST, "--features", backbone)
    call(SCRIPT, *command)
    first = json.loads((tmp_path / "cost" / "cost.json").read_text())
    shutil.rmtree(mirror)
    flags = ("--data", tiny["train"], "--out", mirror, "--size", 32, "--workers", 0, "--seed", 1)
    call("02_augment.py", "blur", *flags)
    call(SCRIPT, *command)
    second = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert second["rows"]["blur"]["ssim"] != first["rows"]["blur"]["ssim"]


def test_cost_under_two_processes(mirrors, backbone, tmp_path):
    """The same numbers, and the same command once more."""
    command = ("cost", mirrors["inpaint"], mirrors["jitter"], *COST, "--features", backbone)
    run(SCRIPT, *command, "--out", tmp_path / "one")
    run(SCRIPT, *command, "--out", tmp_path / "two", processes=2)
    one, two = (
        json.loads((tmp_path / n / "cost.json").read_text())["rows"] for n in ("one", "two")
    )
    for name in one:
        assert two[name]["ssim"] == pytest.approx(one[name]["ssim"], abs=1e-12)
        assert two[name]["fid"] == pytest.approx(one[name]["fid"], rel=1e-3)
    run(SCRIPT, *command, "--out", tmp_path / "two", processes=2)
    again = json.loads((tmp_path / "two" / "cost.json").read_text())["rows"]
    assert again == two


def test_cost_bad_input(mirrors, tiny, backbone, tmp_path, capsys):
    command = ("--out", tmp_path / "cost", *COST, "--features", backbone)
    assert "augment.json" in refused(capsys, SCRIPT, "cost", tiny["train"], *command)
    said = refused(capsys, SCRIPT, "cost", mirrors["blur"], mirrors["blur"], *command)
    assert "have one name" in said
    inside = ("--out", tiny["train"] / "cost", *COST, "--features", backbone)
    assert "lies inside" in refused(capsys, SCRIPT, "cost", mirrors["blur"], *inside)


@pytest.mark.parametrize("name", ["crop", "jitter", "blur"])
def test_handcrafted_is_vicregs_first_view(name, mirrors, tiny):
    """The stored image is what the views' own functions make of the same random numbers."""
    from models import views
    from models.images import find_images, read_image
    from models.run import seed_rng

    path = find_images(tiny["train"])[0]
    image = read_image(tiny["train"] / path)
    alone = {"crop": {"scale": (0.08, 1.0)}, "jitter": {"jitter_p": 1.0}, "blur": {"blur": 1.0}}
    off = dict(scale=None, jitter_p=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
    view = views.FIRST | off | alone[name]
    box, _, choices = views.draw_choices(view, 32, 32, seed_rng(0, path, name))
    expected = views.colour(views.resized_crop(image, box, 32), choices)
    made = read_image(mirrors[name] / "view0" / path)
    np.testing.assert_array_equal(made, expected)
    assert not np.array_equal(made, image)


def test_help_needs_no_heavy_import():
    code = (
        "import sys; sys.argv = ['07_metrics.py', 'fid', '--help']; import runpy\n"
        "try: runpy.run_path('07_metrics.py', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'scipy', 'matplotlib', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:]
