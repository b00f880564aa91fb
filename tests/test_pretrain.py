"""03_pretrain.py, run as a user would."""

import shutil
import subprocess

import pytest
import torch
import torchvision
from conftest import PRETRAIN, ROOT, command, refused, run, write_images

from base.run import load
from base.run_folder import read_log, run_arguments
from models.registry import build_method
from models.resnet import build_backbone

SMALL = {
    "vicreg": "16-16",
    "barlow": "16-16",
    "dino": "16-16-8-24",
    "simclr": "16-16-8",
    "byol": "16-8",
    "swav": "16-8-12",
}
START = ROOT / "tests" / "start_method.py"
TIMES = ("images_per_second", "time", "memory_gib")


def steps(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_log(folder, "step")]


def same(a, b):
    a, b = load(a / "backbone.pth"), load(b / "backbone.pth")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", SMALL)
def test_every_method_trains_from_the_command_line(tiny, tmp_path, method):
    """With generated views and local crops; the result is a backbone that loads strictly."""
    out = tmp_path / method
    run(
        "03_pretrain.py",
        "--method",
        method,
        "--data",
        tiny["train"],
        "--generated",
        tiny["inpaint"],
        "--out",
        out,
        "--epochs",
        2,
        "--projector",
        SMALL[method],
        "--local-crops",
        2,
        "--local-size",
        16,
        "--pair",
        "crop",
        "flip",
        *(["--queue", 16, "--queue-start", 1] if method == "swav" else []),
        *PRETRAIN,
        "--optimizer",
        "published",
    )
    lines = steps(out)
    assert len(lines) == 6 and all(
        line["loss"] > 0 and line["effective_rank"] > 1 for line in lines
    )
    assert (out / "views.png").exists() and (out / "curves.png").exists()
    backbone, _ = build_backbone("resnet10", small_images=True)
    start = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.load_state_dict(load(out / "backbone.pth"), strict=True)
    assert start.keys() == load(out / "backbone.pth").keys()
    made_by = run_arguments(out)["generated_by"]
    assert made_by[0]["strategy"] == "inpaint" and made_by[0]["args"]["mask"] == "random:0.5"


def test_standard_stem_loads_into_torchvision(tiny, tmp_path):
    run(
        "03_pretrain.py",
        "--data",
        tiny["train"],
        "--out",
        tmp_path / "r18",
        "--epochs",
        1,
        "--projector",
        "16-16",
        *(a for a in PRETRAIN if a != "--small-images"),
        "--backbone",
        "resnet18",
        "--size",
        64,
    )
    state = load(tmp_path / "r18" / "backbone.pth")
    model = torchvision.models.resnet18()
    model.fc = torch.nn.Identity()
    model.load_state_dict(state, strict=True)


def test_gamma_0_is_the_baseline_and_never_reads_a_generated_image(tiny, tmp_path):
    fixed = ["--data", tiny["train"], "--epochs", 2, "--projector", "16-16", *PRETRAIN]
    run("03_pretrain.py", *fixed, "--out", tmp_path / "baseline")
    shutil.copytree(tiny["inpaint"], tmp_path / "gone")
    for image in (tmp_path / "gone").glob("view0/*/*"):
        image.write_text("not an image: reading it would end the run")
    run(
        "03_pretrain.py",
        *fixed,
        "--out",
        tmp_path / "zero",
        "--generated",
        tmp_path / "gone",
        "--mix",
        0,
    )
    assert same(tmp_path / "baseline", tmp_path / "zero")
    assert steps(tmp_path / "baseline") == steps(tmp_path / "zero")
    done = run(
        "03_pretrain.py",
        *fixed,
        "--out",
        tmp_path / "half",
        "--generated",
        tmp_path / "gone",
        code=1,
    )
    assert "gone/view0" in done.stderr and "cannot be read" in done.stderr


def test_control_views_knn_and_init(tiny, tmp_path):
    """--generated real; three generated views; a kNN probe on the way; starting from a backbone."""
    fixed = ["--data", tiny["train"], "--epochs", 1, "--projector", "16-16", *PRETRAIN]
    run(
        "03_pretrain.py",
        *fixed,
        "--out",
        tmp_path / "control",
        "--generated",
        "real",
        "--mix",
        1,
        "--knn",
        tiny["data"],
    )
    assert run_arguments(tmp_path / "control")["generated_by"] == ["real"]
    assert 0 <= read_log(tmp_path / "control", "knn")[0]["top1"] <= 100
    run(
        "02_augment.py",
        "inpaint",
        "--data",
        tiny["train"],
        "--weights",
        tiny["maskgit"],
        "--views",
        3,
        "--steps",
        2,
        "--out",
        tmp_path / "three",
        "--workers",
        0,
    )
    run(
        "03_pretrain.py",
        *fixed,
        "--out",
        tmp_path / "views",
        "--generated",
        tmp_path / "three",
        "--views",
        3,
        "--mix",
        1,
        "--init",
        tmp_path / "control",
    )
    args = run_arguments(tmp_path / "views")
    assert args["views"] == 3 and len(steps(tmp_path / "views")) == 3


def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(tiny, tmp_path):
    done = run(
        "03_pretrain.py",
        "--data",
        tiny["train"],
        "--out",
        tmp_path / "x",
        "--epochs",
        8,
        *PRETRAIN,
        "--projector",
        "16-16",
        "--learning-rate",
        "1e25",
        "--weight-decay",
        0,
        "--checkpoint-minutes",
        0,
        "--log-every",
        3,
        code=1,
    )
    assert "is not finite" in done.stderr and "Step " in done.stderr
    checkpoint = load(tmp_path / "x" / "checkpoint.pth")
    assert all(bad.isinf() for _, _, bad in checkpoint["meter"].values())


def test_two_processes_train_what_one_does(tiny, tmp_path):
    """Loss, terms and weights, with BatchNorm over both; and a second start says it is finished."""
    fixed = ["--data", tiny["train"], "--generated", tiny["inpaint"], "--epochs", 1]
    fixed += ["--projector", "16-16", *PRETRAIN, "--precision", "fp32"]
    run("03_pretrain.py", *fixed, "--out", tmp_path / "one")
    for _ in range(2):
        done = run("03_pretrain.py", *fixed, "--out", tmp_path / "two", processes=2)
    assert "is finished" in done.stdout
    one, two = steps(tmp_path / "one")[0], steps(tmp_path / "two")[0]
    for name in ("loss", "invariance", "variance", "covariance"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)
    # Float32 through BatchNorm of 8 images: 1.6e-4 was seen. test_heads.py has 1e-10 in float64.
    assert two["gradient"] == pytest.approx(one["gradient"], rel=1e-3)
    one, two = load(tmp_path / "one/backbone.pth"), load(tmp_path / "two/backbone.pth")
    for name, value in one.items():
        if "running" in name:  # AdamW turns rounding errors of the gradient into steps
            torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)


def test_workers_that_are_not_forked(tiny, tmp_path):
    """Started as a user would. test_every_stage.py sends the readers of all stages."""
    flags = ["--data", tiny["train"], "--generated", tiny["inpaint"], "--epochs", 1]
    flags += ["--projector", "16-16", *PRETRAIN, "--workers", 1]
    run(START, "spawn", "03_pretrain.py", *flags, "--out", tmp_path / "x", cold=True)
    run("03_pretrain.py", *flags, "--out", tmp_path / "forked")
    assert same(tmp_path / "x", tmp_path / "forked")


def test_in_memory_training_is_close_to_the_ordinary_one(tiny, tmp_path):
    flags = ["--data", tiny["train"], "--generated", tiny["inpaint"], "--epochs", 1]
    flags += ["--projector", "16-16", *PRETRAIN]
    run("03_pretrain.py", *flags, "--out", tmp_path / "files")
    run("03_pretrain.py", *flags, "--out", tmp_path / "memory", "--in-memory")
    first, second = steps(tmp_path / "files")[0], steps(tmp_path / "memory")[0]
    assert second["loss"] == pytest.approx(first["loss"], rel=0.02)


def test_what_changes_behind_a_run_is_noticed(tiny, tmp_path, capsys):
    shutil.copytree(tiny["train"], tmp_path / "data")
    flags = ["--data", tmp_path / "data", "--out", tmp_path / "x", "--epochs", 1]
    flags += ["--projector", "16-16", *PRETRAIN]
    run("03_pretrain.py", *flags)
    (tmp_path / "data/a/000.png").rename(tmp_path / "data/a/new.png")
    assert "list of images was" in refused(capsys, "03_pretrain.py", *flags, code=2)


def test_bad_input_is_one_sentence(tiny, tmp_path, capsys):
    def no(*extra, code=None):
        return refused(
            capsys,
            "03_pretrain.py",
            "--data",
            tiny["train"],
            "--out",
            tmp_path / "x",
            "--epochs",
            1,
            "--projector",
            "16-16",
            *PRETRAIN,
            *extra,
            code=code,
        )

    assert "--mix above 0 needs --generated" in no("--mix", 0.5, code=2)
    assert "--views above 1 needs --generated" in no("--views", 2, code=2)
    assert "needs 2 folders" in no("--views", 2, "--generated", tiny["inpaint"], code=2)
    assert "not a mirror" in no("--generated", tiny["data"], code=2)
    assert "--pair takes any of" in no("--generated", tiny["inpaint"], "--pair", "rotate", code=2)
    assert "more than the 24 images" in no("--batch-size", 48, code=2)
    assert "There is no backbone" in no("--backbone", "vgg", code=2)
    assert "BatchNorm and the loss need at least 2" in no("--batch-size", 1, code=2)
    assert "give widths such as" in no("--projector", "0-0", code=2)
    assert "is not a whole number, 0 or above" in no("--workers", -1, code=2)
    assert "/typo" in no("--knn", "/typo", code=2)
    assert "lies inside --data" in no("--out", tiny["train"] / "x", code=2)
    both = ("--generated", tiny["inpaint"], "--both-generated", "--replace", "first")
    assert "leave --replace out" in no(*both, code=2)
    for flag in ("--temperature", "--queue", "--queue-start"):
        assert f"{flag}: vicreg has no such setting" in no(flag, 5, code=2)
    assert "choose from 'vicreg', 'barlow'" in no("--method", "moco", code=2)
    assert "0 < LOW <= HIGH <= 1" in no("--crop-scale", 0.5, 0.2, code=2)
    part = tmp_path / "part"
    shutil.copytree(tiny["inpaint"], part)
    (part / "view0" / "b" / "003.png").unlink()
    assert (
        "1 of 24 images have no generated view" in no("--generated", part)
        and not (tmp_path / "x").exists()
    )
    write_images(tmp_path / "bad", each=8)
    (tmp_path / "bad" / "a" / "002.png").write_bytes(b"broken")
    too_many = no("--data", tmp_path / "bad")
    assert "1 of 24 images cannot be read" in too_many and "a/002.png" in too_many
    assert "--epochs was 1, now 2" in no("--data", tmp_path / "bad", "--epochs", 2, code=2)
    done = subprocess.run(
        command(
            "03_pretrain.py",
            "--data",
            tiny["train"],
            "--out",
            tmp_path / "two",
            *PRETRAIN,
            "--batch-size",
            9,
            processes=2,
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode and "must be a multiple of the 2 processes" in done.stderr


def test_published_defaults_build_at_full_size():
    """The projectors of the six recipes, on the meta device: parameter counts of the official
    code.
    """
    with torch.device("meta"):
        backbone, width = build_backbone("resnet50")
        counts = {
            name: sum(p.numel() for p in build_method(name, backbone, width).projector.parameters())
            for name in ("vicreg", "barlow")
        }
    assert counts == {"vicreg": 151_044_096, "barlow": 151_027_712}
