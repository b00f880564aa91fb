"""03_pretrain.py, run as a user would."""

import shutil

import pytest
import torch
import torchvision
from conftest import PRETRAIN, refused, run

from base.run import load
from base.run_folder import read_log, run_arguments
from models.resnet import build_backbone

SMALL = {"vicreg": "16-16", "barlow": "16-16", "dino": "16-16-8-24"}
SMALL |= {"simclr": "16-16-8", "byol": "16-8", "swav": "16-8-12"}
TIMES = ("images_per_second", "time", "memory_gib")


def steps(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_log(folder, "step")]


def same(a, b):
    a, b = load(a / "backbone.pth"), load(b / "backbone.pth")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train(tiny, out, *more, epochs=1, projector="16-16", **how):
    words = f"03_pretrain.py --data {tiny['train']} --out {out} --epochs {epochs}"
    return run(words, "--projector", projector, *PRETRAIN, *more, **how)


@pytest.mark.parametrize("method", SMALL)
def test_every_method_trains_from_the_command_line(tiny, tmp_path, method):
    """With generated views and local crops; the result is a backbone that loads strictly."""
    out = tmp_path / method
    more = f"--method {method} --generated {tiny['inpaint']} --pair crop flip --local-crops 2 "
    more += "--local-size 16 --optimizer published"
    more += " --queue 16 --queue-start 1" if method == "swav" else ""
    train(tiny, out, *more.split(), epochs=2, projector=SMALL[method])
    lines = steps(out)
    assert len(lines) == 6
    assert all(line["loss"] > 0 and line["effective_rank"] > 1 for line in lines)
    assert (out / "views.png").exists() and (out / "curves.png").exists()
    backbone, _ = build_backbone("resnet10", small_images=True)
    names = backbone.state_dict().keys()
    backbone.load_state_dict(load(out / "backbone.pth"), strict=True)
    assert names == load(out / "backbone.pth").keys()
    made_by = run_arguments(out)["generated_by"]
    assert made_by[0]["strategy"] == "inpaint" and made_by[0]["args"]["mask"] == "random:0.5"


def test_torchvisions_stem_and_a_loss_that_is_not_finite(tiny, tmp_path):
    flags = [flag for flag in PRETRAIN if flag != "--small-images"]
    words = f"03_pretrain.py --data {tiny['train']} --out {tmp_path}/r18 --epochs 1"
    run(words, *flags, *"--projector 16-16 --backbone resnet18 --size 64".split())
    model = torchvision.models.resnet18()
    model.fc = torch.nn.Identity()
    model.load_state_dict(load(tmp_path / "r18" / "backbone.pth"), strict=True)
    more = "--learning-rate 1e25 --weight-decay 0 --checkpoint-minutes 0 --log-every 3"
    done = train(tiny, tmp_path / "x", *more.split(), epochs=8, code=1)
    assert "is not finite" in done.stderr and "Step " in done.stderr
    checkpoint = load(tmp_path / "x" / "checkpoint.pth")
    assert all(bad.isinf() for _, _, bad in checkpoint["meter"].values())


def test_gamma_0_is_the_baseline_and_never_reads_a_generated_image(tiny, tmp_path):
    train(tiny, tmp_path / "baseline")
    shutil.copytree(tiny["inpaint"], tmp_path / "gone")
    for image in (tmp_path / "gone").glob("view0/*/*"):
        image.write_text("not an image: reading it would end the run")
    gone = ("--generated", tmp_path / "gone")
    train(tiny, tmp_path / "zero", *gone, "--mix", 0)
    assert same(tmp_path / "baseline", tmp_path / "zero")
    assert steps(tmp_path / "baseline") == steps(tmp_path / "zero")
    done = train(tiny, tmp_path / "half", *gone, code=1)
    assert "gone/view0" in done.stderr and "cannot be read" in done.stderr


def test_control_views_knn_and_init(tiny, tmp_path):
    """--generated real; three generated views; a kNN probe on the way; starting from a backbone."""
    real = ("--generated", "real", "--mix", 1)
    train(tiny, tmp_path / "control", *real, "--knn", tiny["data"])
    assert run_arguments(tmp_path / "control")["generated_by"] == ["real"]
    assert 0 <= read_log(tmp_path / "control", "knn")[0]["top1"] <= 100
    paint = f"02_augment.py inpaint --data {tiny['train']} --weights {tiny['maskgit']} --views 3"
    run(f"{paint} --steps 2 --out {tmp_path}/three --workers 0")
    three = f"--generated {tmp_path}/three --views 3 --mix 1 --init {tmp_path}/control"
    train(tiny, tmp_path / "views", *three.split())
    args = run_arguments(tmp_path / "views")
    assert args["views"] == 3 and len(steps(tmp_path / "views")) == 3


def test_two_processes_train_what_one_does(tiny, tmp_path):
    """Loss, terms and weights, with BatchNorm over both."""
    more = ("--generated", tiny["inpaint"], "--precision", "fp32")
    train(tiny, tmp_path / "one", *more)
    train(tiny, tmp_path / "two", *more, processes=2)
    one, two = steps(tmp_path / "one")[0], steps(tmp_path / "two")[0]
    for name in ("loss", "invariance", "variance", "covariance"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)
    # Float32 through BatchNorm of 8 images: 1.6e-4 was seen. test_heads.py has 1e-10 in float64.
    assert two["gradient"] == pytest.approx(one["gradient"], rel=1e-3)
    one, two = load(tmp_path / "one/backbone.pth"), load(tmp_path / "two/backbone.pth")
    for name, value in one.items():
        if "running" in name:  # AdamW turns rounding errors of the gradient into steps
            torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)


def test_files_workers_and_memory(tiny, tmp_path):
    """Workers that are not forked change nothing; images in memory, hardly anything."""
    more = ("--generated", tiny["inpaint"])
    train(tiny, tmp_path / "files", *more)
    train(tiny, tmp_path / "memory", *more, "--in-memory")
    spawned = f"tests/otherwise.py spawn 03_pretrain.py --data {tiny['train']} --epochs 1"
    more = (*more, "--projector", "16-16", *PRETRAIN, "--workers", 1)
    run(spawned, *more, "--out", tmp_path / "spawned")
    assert same(tmp_path / "spawned", tmp_path / "files")
    first, second = steps(tmp_path / "files")[0], steps(tmp_path / "memory")[0]
    assert second["loss"] == pytest.approx(first["loss"], rel=0.02)


REFUSED = {  # flags: what the sentence says; {name} stands for a path
    "--mix 0.5": "--mix above 0 needs --generated",
    "--views 2": "--views above 1 needs --generated",
    "--views 2 --generated {inpaint}": "needs 2 folders",
    "--generated {data}": "not a mirror",
    "--generated {inpaint} --pair rotate": "--pair takes any of",
    "--generated {inpaint} --both-generated --replace first": "leave --replace out",
    "--backbone vgg": "There is no backbone",
    "--projector 0-0": "give widths such as",
    "--workers -1": "is not a whole number, 0 or above",
    "--temperature 5": "--temperature: vicreg has no such setting",
    "--queue 5": "--queue: vicreg has no such setting",
    "--queue-start 5": "--queue-start: vicreg has no such setting",
    "--method moco": "choose from 'vicreg', 'barlow'",
    "--crop-scale 0.5 0.2": "0 < LOW <= HIGH <= 1",
}


def test_bad_input_is_one_sentence(tiny, tmp_path, capsys):
    words = f"03_pretrain.py --data {tiny['train']} --out {tmp_path}/x --epochs 1"
    words = [*words.split(), "--projector", "16-16", *PRETRAIN]
    for flags, said in REFUSED.items():
        assert said in refused(capsys, *words, *flags.format(**tiny).split(), code=2), flags
    assert not (tmp_path / "x").exists()
    odd = train(tiny, tmp_path / "two", "--batch-size", 9, processes=2, code=1).stderr
    assert "must be a multiple of the 2 processes" in odd
