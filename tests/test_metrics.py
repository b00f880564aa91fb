"""07_metrics.py: SSIM against scikit-image, cost on tiny mirrors, hand-crafted augmentations."""

import json
import shutil

import numpy as np
import pytest
from conftest import call, refused, run
from PIL import Image

from base.run import seed_rng
from evaluate.ssim import structural_similarity
from images import views
from images.files import find_images
from images.pictures import write_image
from images.read import read_image

SCRIPT = "07_metrics.py"


def test_ssim_is_scikit_images(photographs):
    from skimage.metrics import structural_similarity as theirs

    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    options |= dict(data_range=255, channel_axis=2)
    rng = np.random.default_rng(0)
    flat = np.full((64, 80, 3), 150, np.uint8)
    flat[:32] = 250
    pairs = [(flat, 255 - flat), (flat, flat)]
    for photo in photographs:
        noisy = np.clip(photo + rng.integers(-40, 40, photo.shape), 0, 255).astype(np.uint8)
        pairs += [(photo, noisy), (photo, photo[:, ::-1]), (photo[:11, :13], noisy[:11, :13])]
    for x, y in pairs:
        assert structural_similarity(x, y) == pytest.approx(theirs(x, y, **options), abs=1e-9)


def test_ssim_command(folders, tmp_path, capsys):
    call(SCRIPT, "ssim", folders / "a", folders / "b", "--out", tmp_path / "out", "--workers", 2)
    result = json.loads((tmp_path / "out" / "ssim.json").read_text())
    expected = {}
    for file in (folders / "a").rglob("*.png"):
        name = str(file.relative_to(folders / "a"))
        pair = [np.asarray(Image.open(folders / side / name)) for side in "ab"]
        expected[name] = structural_similarity(*pair)
    assert result["values"] == pytest.approx(expected, abs=1e-6)
    assert result["least_similar"][0] == min(expected, key=expected.get)
    assert f"{np.mean(list(expected.values())):.4f}" in capsys.readouterr().out
    for picture in ("histogram.png", "least_similar.png"):
        assert (tmp_path / "out" / picture).exists()
    write_image(tmp_path / "x" / "1.png", np.zeros((40, 30, 3), np.uint8))
    write_image(tmp_path / "y" / "1.png", np.zeros((32, 32, 3), np.uint8))
    command = ("ssim", tmp_path / "x", tmp_path / "y", "--workers", 0)
    assert "30 x 40 px" in refused(capsys, SCRIPT, *command)
    call(SCRIPT, *command, "--size", 32)
    assert "1.0000" in capsys.readouterr().out
    assert "11 x 11 or more" in refused(capsys, SCRIPT, *command, "--size", 8)
    assert "hold different images" in refused(capsys, SCRIPT, "ssim", folders / "a", tmp_path / "x")


def test_ssim_under_two_processes(folders, tmp_path):
    options = ("ssim", folders / "a", folders / "b", "--workers", 0)
    run(SCRIPT, *options, "--out", tmp_path / "one")
    run(SCRIPT, *options, "--out", tmp_path / "two", processes=2)
    run(SCRIPT, *options, "--out", tmp_path / "two", processes=2)
    one, two = ((tmp_path / name / "ssim.json").read_text() for name in ("one", "two"))
    assert one == two


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


def cost_rows(folder):
    return json.loads((folder / "cost.json").read_text())["rows"]


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
    pretraining = tmp_path / "runs/a"
    pretraining.mkdir(parents=True)
    (pretraining / "args.json").write_text('{"stage": "03_pretrain"}')
    log = [{"event": "start", "world": 2}, {"event": "step", "images_per_second": 100.0}]
    (pretraining / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
    call(SCRIPT, "cost", *folders, *command, "--runs", tmp_path / "runs")  # finished rows are kept
    again = json.loads((tmp_path / "cost" / "cost.json").read_text())
    assert again["rows"] == found["rows"]
    share = found["rows"]["inpaint"]["batch_ms"] / 2 / 1000 * 100
    assert again["ratios"]["generation_share"] == pytest.approx(share)
    assert "resnet10 features" in capsys.readouterr().out
    said = refused(capsys, SCRIPT, "cost", *folders, *command, "--batch-size", 5)
    assert "--batch-size was 4, now 5" in said


def test_cost_is_what_fid_and_ssim_say(mirrors, tiny, backbone, tmp_path, capsys):
    flags = ("--size", 32, "--workers", 0)
    command = ("cost", mirrors["blur"], "--out", tmp_path / "cost", *COST, "--compare", 100)
    call(SCRIPT, *command, *flags, "--features", backbone)
    row = cost_rows(tmp_path / "cost")["blur"]
    assert row["images"] == 24
    view = mirrors["blur"] / "view0"
    capsys.readouterr()
    call(SCRIPT, "fid", tiny["train"], view, *flags, "--features", backbone)
    assert float(capsys.readouterr().out.split(": ")[-1]) == pytest.approx(row["fid"], abs=1e-3)
    call(SCRIPT, "ssim", tiny["train"], view, *flags, "--out", tmp_path / "ssim")
    ssim = json.loads((tmp_path / "ssim" / "ssim.json").read_text())
    assert ssim["mean"] == pytest.approx(row["ssim"], abs=1e-9)


def test_cost_of_a_mirror_made_anew(mirrors, tiny, backbone, tmp_path):
    mirror = tmp_path / "blur"
    shutil.copytree(mirrors["blur"], mirror)
    command = ("cost", mirror, "--out", tmp_path / "cost", *COST, "--features", backbone)
    call(SCRIPT, *command)
    first = cost_rows(tmp_path / "cost")["blur"]
    shutil.rmtree(mirror)
    flags = ("--data", tiny["train"], "--out", mirror, "--size", 32, "--workers", 0, "--seed", 1)
    call("02_augment.py", "blur", *flags)
    call(SCRIPT, *command)
    assert cost_rows(tmp_path / "cost")["blur"]["ssim"] != first["ssim"]


def test_cost_under_two_processes(mirrors, backbone, tmp_path):
    command = ("cost", mirrors["inpaint"], mirrors["jitter"], *COST, "--features", backbone)
    run(SCRIPT, *command, "--out", tmp_path / "one")
    run(SCRIPT, *command, "--out", tmp_path / "two", processes=2)
    one, two = (cost_rows(tmp_path / name) for name in ("one", "two"))
    for name in one:
        assert two[name]["ssim"] == pytest.approx(one[name]["ssim"], abs=1e-12)
        assert two[name]["fid"] == pytest.approx(one[name]["fid"], rel=1e-3)
    run(SCRIPT, *command, "--out", tmp_path / "two", processes=2)
    assert cost_rows(tmp_path / "two") == two


def test_cost_bad_input(mirrors, tiny, backbone, tmp_path, capsys):
    command = ("--out", tmp_path / "cost", *COST, "--features", backbone)
    assert "augment.json" in refused(capsys, SCRIPT, "cost", tiny["train"], *command)
    said = refused(capsys, SCRIPT, "cost", mirrors["blur"], mirrors["blur"], *command)
    assert "have one name" in said
    inside = ("--out", tiny["train"] / "cost", *COST, "--features", backbone)
    assert "lies inside" in refused(capsys, SCRIPT, "cost", mirrors["blur"], *inside)


@pytest.mark.parametrize("name", ["crop", "jitter", "blur"])
def test_handcrafted_is_vicregs_first_view(name, mirrors, tiny):
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
