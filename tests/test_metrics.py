"""07_metrics.py: FID against pytorch-fid, SSIM against scikit-image, cost on tiny generators, the report."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, call, refused, run

from models import inception
from models.images import write_image
from models.report import DISSERTATION, collect, generation, report, select, values_of
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
    ours, _ = inception.load_inception(weights)
    images = torch.from_numpy(np.stack([p[:150, :170] for p in photographs[:2]]))
    with torch.no_grad():
        theirs = official[0](images.permute(0, 3, 1, 2).float() / 255)[0][:, :, 0, 0]
        torch.testing.assert_close(ours(images), theirs, rtol=1e-5, atol=1e-6)


def test_inception_of_another_kind(tmp_path, weights):
    state = torch.load(weights)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # as PyTorch before 0.4.1 wrote them
    inception.load_inception(tmp_path / "old.pth")
    del old["Mixed_7c.branch1x1.conv.weight"]
    torch.save(old, tmp_path / "part.pth")
    with pytest.raises(SystemExit):
        inception.load_inception(tmp_path / "part.pth")


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
    moments = inception.Moments(40)
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
    value = inception.frechet_distance(*statistics)
    assert value == pytest.approx(exact, rel=1e-9)
    assert value == pytest.approx(
        calculate_frechet_distance(*statistics), rel=1e-6 if min(n1, n2) > width else 1e-5
    )
    assert inception.frechet_distance(*statistics[:2], *statistics[:2]) == pytest.approx(
        0, abs=1e-8
    )


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


# ---------------------------------------------------------------- cost
def test_cost(tiny, backbone, tmp_path, capsys):
    command = (
        "cost",
        "--data",
        tiny["train"],
        "--out",
        tmp_path / "cost",
        "--augmentations",
        "inpaint",
        "crop",
        "jitter",
        "blur",
        "--inpaint",
        f"--weights {tiny['maskgit']} --steps 2 --mask random:0.9",
        "--images",
        2,
        "--compare",
        8,
        "--batch-size",
        4,
        "--workers",
        0,
        "--features",
        backbone,
    )
    call(SCRIPT, *command)
    assert "8 images, fewer than the 256" in capsys.readouterr().err
    found = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert found["rows"].keys() == {"inpaint", "crop", "jitter", "blur"} and found["compared"] == 8
    for row in found["rows"].values():
        assert (
            row["fid"] > 0
            and -1 < row["ssim"] < 1
            and row["latency_ms"] > 0
            and row["batch_ms"] > 0
        )
    assert found["rows"]["inpaint"]["parameters"] > 10_000 and found["ratios"].keys() == {
        "inpaint_over_jitter"
    }
    call(
        SCRIPT, *command, "--pretrain-images-per-second", 100, "--pretrain-gpus", 2
    )  # finished rows are kept
    again = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert again["rows"] == found["rows"]
    assert again["ratios"]["generation_share"] == pytest.approx(
        found["rows"]["inpaint"]["batch_ms"] / 2 / 1000 * 100
    )
    assert "98.93" in capsys.readouterr().out
    assert "--batch-size was 4, now 5" in refused(capsys, SCRIPT, *command, "--batch-size", 5)


# ---------------------------------------------------------------- report
def write_run(folder, top1, seed=0, evaluation=None, results=None, **backbone):
    backbone = {
        "stage": "03_pretrain",
        "method": "vicreg",
        "backbone": "resnet50",
        "data": "/data/set/train",
        "epochs": 100,
        "mix": 0.0,
        "pair": ["crop"],
        "views": 1,
        "seed": seed,
        "generated_by": [],
        **backbone,
    }
    folder.mkdir(parents=True)
    stage, args = evaluation or ("04_linear_eval", {})
    results = results or {
        "top1": {"mean": top1, "sd": 0.0, "values": [top1]},
        "knn_top1": {"mean": 50.0},
    }
    (folder / "result.json").write_text(
        json.dumps(
            {
                "stage": stage,
                "args": {"seeds": [0], **args},
                "backbone": backbone,
                "backbone_sha256": "0",
                "images": {"train": 1, "val": 1, "classes": 7},
                "results": results,
                "baselines": {"majority class": {"top1": {"mean": 12.5}}},
            }
        )
    )


def mirror(strategy, **args):
    return [{"stage": f"02_augment {strategy}", "strategy": strategy, "args": args}]


def cells(folder, name):
    """The cells of a row of report.md."""
    row = next(
        line
        for line in (folder / "report.md").read_text().splitlines()
        if line.startswith(f"| {name} |")
    )
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_report(tmp_path, capsys):
    inpaint = mirror("inpaint", mask="center")
    for seed, top1 in enumerate((60.0, 61.0, 62.0)):
        write_run(tmp_path / "imagenet" / f"base{seed}", top1, seed)
        write_run(
            tmp_path / "imagenet" / f"inpaint{seed}", top1 + 2, seed, mix=0.5, generated_by=inpaint
        )
    write_run(tmp_path / "imagenet" / "semi", 40.0, 0, ("05_semisup_eval", {"percent": 1.0}))
    write_run(tmp_path / "imagenet" / "real", 61.5, mix=0.5, generated_by=["real"])
    write_run(
        tmp_path / "imagenet" / "none", 61.0, mix=0.5, generated_by=mirror("inpaint", mask="none")
    )
    write_run(
        tmp_path / "imagenet" / "voc",
        0,
        0,
        ("06_transfer voc07", {}),
        {"top1": {"mean": 80.0}, "map": {"mean": 75.0}},
    )
    diffusion = mirror("diffusion", strength=[0.1, 0.2])
    diffusion[0]["folder"] = "gen/strength0.2"
    write_run(
        tmp_path / "imagenet100" / "d",
        70.0,
        method="dino",
        mix=0.5,
        pair=["flip", "crop"],
        generated_by=diffusion,
    )
    write_run(
        tmp_path / "imagenet100" / "o",
        71.0,
        method="byol",
        mix=1.0,
        views=2,
        generated_by=mirror("outpaint"),
    )
    random = mirror("inpaint", mask="random:0.25")
    write_run(tmp_path / "satellite" / "m", 98.0, mix=0.75, generated_by=random)
    write_run(tmp_path / "satellite" / "long", 99.0, mix=0.75, generated_by=random, epochs=1000)
    scratch = {"percent": 100.0, "from_scratch": True, "epochs": 100}
    write_run(tmp_path / "satellite" / "s", 97.0, 0, ("05_semisup_eval", scratch))
    report(tmp_path)
    text = capsys.readouterr().out
    for title in [about["title"] for about in DISSERTATION.values()] + ["All arms"]:
        assert title in text
    assert text.strip() == (tmp_path / "report.txt").read_text().strip()
    assert cells(tmp_path, "Non-Generative 0 %")[1:7] == [
        "65.8",
        "61.00 ± 1.00 (3)",
        "86.6",
        "",
        "42.9",
        "40.00",
    ]
    assert cells(tmp_path, "In-Painting 50 %")[1:3] == ["68.7", "63.00 ± 1.00 (3)"]
    assert cells(tmp_path, "Control: real image 50 %")[1:3] == ["–", "61.50"]
    assert cells(tmp_path, "Control: reconstruction 50 %")[1:3] == ["–", "61.00"]
    assert cells(tmp_path, "Hand-Crafted")[3:7] == ["83.8", "80.00", "–", "75.00"]
    assert cells(tmp_path, "Strength 0.2")[1:3] == ["–", "70.00"]
    assert cells(tmp_path, "BYOL, 2 views")[1:3] == ["–", "71.00"]
    assert cells(tmp_path, "Mask 0.25, gamma 0.75")[1:] == ["98.37", "98.00"]
    assert cells(tmp_path, "Mask 0.25, gamma 0.75, long training")[1:] == ["99.22", "99.00"]
    assert cells(tmp_path, "Supervised")[1:] == ["98.68", "97.00"]
    assert "majority class on set 12.50" in text and "inpaint (mask none), control" in text
    for figure in (30, 31, 33):
        assert (tmp_path / f"figure{figure}.png").stat().st_size > 5000


def test_report_keeps_other_settings_apart(tmp_path):
    write_run(tmp_path / "imagenet" / "a", 60.0, local_crops=0)
    write_run(tmp_path / "imagenet" / "b", 70.0, local_crops=6)
    write_run(
        tmp_path / "imagenet" / "c", 10.0, evaluation=("04_linear_eval", {"cache_features": True})
    )
    row = next(
        row for row in DISSERTATION["table4"]["rows"] if row["name"].startswith("Non-Generative")
    )
    runs = collect(tmp_path)
    assert len(select(runs, row["arm"])) == 3
    assert sorted(values_of(runs, row["arm"], "linear top1")) == [
        [60.0],
        [70.0],
    ]  # the published protocol counts


def test_report_of_other_data(tmp_path, capsys):
    """The study of section 5.7 on other images takes its place in Figure 33, and says so."""
    write_run(tmp_path / "base", 57.0)
    write_run(
        tmp_path / "masked",
        59.0,
        mix=0.5,
        generated_by=mirror("inpaint", mask="random:0.5", steps=6),
    )
    report(tmp_path)
    assert cells(tmp_path, "Mask 0.5, gamma 0.5")[1:] == ["–", "59.00"]
    assert "Here: set, other data" in capsys.readouterr().out
    assert cells(tmp_path, "Non-Generative 0 %")[2] == ""


def test_generation():
    assert generation([]) == ("none", "") and generation(["real"]) == ("real", "")
    assert generation(mirror("inpaint", mask="random:0.5", steps=12, data="x")) == (
        "inpaint",
        "mask random:0.5",
    )
    assert generation(mirror("inpaint", mask="center", steps=6)) == (
        "inpaint",
        "mask center, steps 6",
    )
    assert generation(mirror("diffusion", strength=[0.0])) == ("diffusion", "strength 0.0")


def test_report_of_nothing_and_of_foreign_files(tmp_path, capsys):
    assert "holds no result.json" in run(SCRIPT, "report", tmp_path).stdout
    assert cells(tmp_path, "In-Painting 50 %")[1:3] == ["68.7", ""]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text("{}")
    assert "is not a result" in refused(capsys, SCRIPT, "report", tmp_path)
    assert "is not a folder" in refused(capsys, SCRIPT, "report", tmp_path / "missing")


def test_dissertation_file():
    """Each row has a value or a null for every column, and every arm can be placed."""
    for key, about in DISSERTATION.items():
        for row in about["rows"]:
            assert len(row["values"]) == len(about["columns"]), (key, row["name"])
    total = sum(
        v is not None for t in DISSERTATION.values() for row in t["rows"] for v in row["values"]
    )
    assert (
        total == 14 * 6 + 13 * 6 + 2 * 2 + 4 * 3 + 6 * 4 + 3 + 5 + 5
    )  # Tables 3, 4, 5, 6, 7, Figure 33


def test_help_needs_no_heavy_import():
    code = (
        "import sys; sys.argv = ['07_metrics.py', 'fid', '--help']; import runpy\n"
        "try: runpy.run_path('07_metrics.py', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'scipy', 'matplotlib', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:]
