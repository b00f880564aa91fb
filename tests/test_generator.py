"""00_train_generator.py and 02_augment.py in- and out-painting, run as a user would."""

import json
import random
import resource
import subprocess

import numpy as np
import pytest
import torch
from conftest import MASKGIT, ROOT, VQGAN, command, hashes, refused, run, run_killed, write_images
from PIL import Image

from models.images import as_stored, read_image, square, stored_suffix, write_image
from models.old_run import load, read_log


def equal(a, b):
    """Two nested structures of tensors and values are bit for bit equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


def quality(run_folder):
    return [
        {k: v for k, v in line.items() if k != "time"} for line in read_log(run_folder, "epoch")
    ]


def test_generator_learns(tiny):
    first, *_, last = read_log(tiny["vqgan"], "epoch")
    assert last["l1"] < 0.7 * first["l1"] and last["psnr"] > first["psnr"] + 3
    assert last["codes_used"] > 16 and last["perplexity"] > 8
    first, *_, last = read_log(tiny["maskgit"], "epoch")
    assert last["loss"] < first["loss"]
    for name in (
        "vqgan/reconstructions.png",
        "maskgit/samples.png",
        "vqgan/curves.png",
        "inpaint/samples.png",
    ):
        assert (tiny["root"] / name).stat().st_size > 1000


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_vqgan_ends_as_the_uninterrupted_one(tiny, tmp_path, processes):
    arguments = [
        "vqgan",
        "--data",
        tiny["train"],
        "--epochs",
        4,
        "--checkpoint-minutes",
        0,
        *VQGAN,
        "--gan-weight",
        0.5,
        "--gan-start",
        1,
        "--restart-steps",
        3,
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run("00_train_generator.py", *arguments, "--out", whole, processes=processes)
    assert run_killed(
        "00_train_generator.py",
        *arguments,
        "--out",
        broken,
        processes=processes,
        when=(broken / "checkpoint.pth").exists,
        delay=random.uniform(0, 0.3),
    )
    assert not (broken / "generator.pth").exists()
    run("00_train_generator.py", *arguments, "--out", broken, processes=processes)
    assert equal(load(whole / "generator.pth"), load(broken / "generator.pth"))
    assert quality(whole) == quality(broken)


def test_killed_maskgit_ends_as_the_uninterrupted_one(tiny, tmp_path):
    arguments = [
        "maskgit",
        "--data",
        tiny["train"],
        "--tokenizer",
        tiny["vqgan"],
        "--epochs",
        15,
        "--checkpoint-minutes",
        0,
        *MASKGIT,
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run("00_train_generator.py", *arguments, "--out", whole)
    assert run_killed(
        "00_train_generator.py",
        *arguments,
        "--out",
        broken,
        when=(broken / "checkpoint.pth").exists,
        delay=random.uniform(0, 0.2),
    )
    run("00_train_generator.py", *arguments, "--out", broken)
    assert equal(load(whole / "generator.pth"), load(broken / "generator.pth"))
    assert quality(whole) == quality(broken)
    before = hashes(broken)
    assert "is finished" in run("00_train_generator.py", *arguments, "--out", broken).stdout
    assert hashes(broken) == before


def test_inpainting_does_not_depend_on_batch_processes_or_kills(tiny, tmp_path):
    fixed = [
        "inpaint",
        "--data",
        tiny["train"],
        "--weights",
        tiny["maskgit"],
        "--mask",
        "random:0.5",
        "--steps",
        3,
        "--workers",
        0,
    ]
    reference = hashes(tiny["inpaint"], "view0/**/*")
    assert len(reference) == 24
    run("02_augment.py", *fixed, "--out", tmp_path / "two", "--batch-size", 5, processes=2)
    assert hashes(tmp_path / "two", "view0/**/*") == reference
    broken = tmp_path / "broken"
    assert run_killed(
        "02_augment.py",
        *fixed,
        "--out",
        broken,
        "--batch-size",
        2,
        processes=2,
        when=lambda: any(broken.glob("view0/*/*.png")),
        delay=random.uniform(0, 0.02),
    )
    kept = {path: (broken / path).stat().st_mtime_ns for path in hashes(broken, "view0/**/*")}
    run("02_augment.py", *fixed, "--out", broken, "--batch-size", 2)
    assert hashes(broken, "view0/**/*") == reference
    assert not [f for f in broken.rglob(".*")]
    unfinished = {
        p
        for a, b in zip(sorted(reference)[::2], sorted(reference)[1::2], strict=True)
        for p in (a, b)
        if not {a, b} <= kept.keys()
    }
    again = [p for p, t in kept.items() if (broken / p).stat().st_mtime_ns != t]
    assert set(again) <= unfinished  # finished batches are not touched
    before = hashes(broken)
    assert "is finished" in run("02_augment.py", *fixed, "--out", broken, "--batch-size", 2).stdout
    assert hashes(broken) == before


def test_official_format_on_photographs(tmp_path):
    """The tiny published-format checkpoint on images of every kind; corrupt ones are named, the rest is done."""
    data = tmp_path / "data" / "n01440764"
    write_images(data, ["."], each=2, size=160, suffix=".jpg")
    photograph = Image.fromarray(read_image(data / "000.jpg")).resize((200, 150))
    photograph.convert("L").save(data / "gray.png")
    photograph.convert("CMYK").save(data / "cmyk.jpg")
    photograph.convert("P").save(data / "palette.gif")
    Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257).save(
        data / "deep.png"
    )
    rgba = photograph.convert("RGBA")
    rgba.putalpha(128)
    rgba.save(data / "alpha.png")
    exif = Image.Exif()
    exif[0x112] = 6
    photograph.save(data / "turned.jpg", exif=exif)
    photograph.resize((3, 2)).save(data / "smallest.png")
    (data / "cut.jpg").write_bytes((data / "001.jpg").read_bytes()[:2000])
    (data / "text.jpg").write_text("no image")
    done = run(
        "02_augment.py",
        "inpaint",
        "--data",
        data.parent,
        "--weights",
        ROOT / "tests/goldens/maskgit",
        "--out",
        tmp_path / "gen",
        "--label",
        3,
        "--steps",
        4,
        "--workers",
        2,
        "--batch-size",
        4,
        code=1,
    )
    assert "2 of 11 images could not be read" in done.stderr
    failed = [
        json.loads(line) for line in (tmp_path / "gen" / "failed.jsonl").read_text().splitlines()
    ]
    assert [f["path"] for f in failed] == ["n01440764/cut.jpg", "n01440764/text.jpg"]
    assert all(f["reason"] for f in failed)
    assert len(list((tmp_path / "gen").glob("view0/*/*.jpg"))) == 9
    about = json.loads((tmp_path / "gen" / "augment.json").read_text())
    assert about["args"]["mask"] == "center" and about["parameters"] == 390030
    (data / "cut.jpg").unlink()
    (data / "text.jpg").unlink()
    run(
        "02_augment.py",
        "outpaint",
        "--data",
        data.parent,
        "--weights",
        ROOT / "tests/goldens/maskgit",
        "--out",
        tmp_path / "out",
        "--positions",
        "center",
        "upper-left",
        "--steps",
        2,
        "--workers",
        0,
    )
    assert sorted(f.name for f in (tmp_path / "out").glob("view*")) == ["view0", "view4"]


def test_images_are_converted_properly(tmp_path):
    red = np.zeros((20, 30, 3), np.uint8)
    red[:, :15] = (200, 20, 30)
    for name, image in {
        "cmyk.jpg": Image.fromarray(red).convert("CMYK"),
        "plain.png": Image.fromarray(red),
    }.items():
        image.save(tmp_path / name, quality=100)
        assert (
            np.abs(read_image(tmp_path / name)[:, 2:13].astype(int) - (200, 20, 30)).max() < 12
        ), name
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == 128).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was turned: rows are columns
    Image.fromarray(red).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_control_is_stored_as_a_generated_image_is(tmp_path):
    image = (
        np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    )
    for size in (64, 256):
        write_image(tmp_path / f"x{stored_suffix(size)}", square(image, size))
        assert (as_stored(image, size) == read_image(tmp_path / f"x{stored_suffix(size)}")).all()


def test_full_disk_is_one_sentence_and_loses_nothing(tiny, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    fixed = [
        "inpaint",
        "--data",
        tiny["train"],
        "--weights",
        tiny["maskgit"],
        "--mask",
        "random:0.5",
        "--steps",
        3,
        "--workers",
        0,
        "--batch-size",
        8,
        "--out",
        tmp_path / "gen",
    ]
    limit = max(f.stat().st_size for f in tiny["inpaint"].glob("view0/*/*")) - 100

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        command("02_augment.py", *fixed),
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=small_files,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "too large" in done.stderr, (
        done.stderr[-500:]
    )
    assert not [f for f in (tmp_path / "gen").rglob(".*")]
    run("02_augment.py", *fixed)
    assert hashes(tmp_path / "gen", "view0/**/*") == hashes(tiny["inpaint"], "view0/**/*")


def test_bad_input_is_one_sentence(tiny, tmp_path, capsys):
    generator, augment = "00_train_generator.py", "02_augment.py"
    vqgan = ["vqgan", "--data", tiny["train"], "--out", tmp_path / "x", *VQGAN]
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, generator, *vqgan, "--data", tmp_path / "empty")
    assert "is not a folder" in refused(capsys, generator, *vqgan, "--data", tmp_path / "nowhere")
    assert "more than the 24 images" in refused(
        capsys, generator, *vqgan, "--batch-size", 25, code=2
    )
    assert "is not a multiple" in refused(capsys, generator, *vqgan, "--size", 30, code=2)
    assert "does not divide" in refused(capsys, generator, *vqgan, "--groups", 5, code=2)
    write_images(tmp_path / "dots", each=8, size=3)
    assert "smaller than the 4 pixels" in refused(
        capsys, generator, *vqgan, "--data", tmp_path / "dots", code=2
    )
    assert not (tmp_path / "x").exists()  # nothing of this left a trace
    assert "vgg16" in refused(capsys, generator, *vqgan, "--perceptual-weight", 1).lower()

    other = refused(capsys, generator, *vqgan, "--out", tiny["maskgit"], code=2)
    assert "00_train_generator maskgit" in other
    changed = refused(capsys, generator, *vqgan, "--out", tiny["vqgan"], "--epochs", 3, code=2)
    assert "--epochs was 12.0, now 3.0" in changed
    assert "not a run folder" in refused(capsys, generator, *vqgan, "--out", tiny["data"], code=2)

    inpaint = [
        "inpaint",
        "--data",
        tiny["train"],
        "--weights",
        tiny["maskgit"],
        "--out",
        tmp_path / "y",
    ]
    assert "holds neither" in refused(capsys, augment, *inpaint, "--weights", tmp_path / "empty")
    assert "only a tokenizer" in refused(
        capsys, augment, *inpaint, "--weights", tiny["vqgan"], code=2
    )
    assert "trained without labels" in refused(capsys, augment, *inpaint, "--label", 1, code=2)
    assert "pass --label" in refused(
        capsys, augment, *inpaint, "--weights", ROOT / "tests/goldens/maskgit", code=2
    )
    assert "mask" in refused(capsys, augment, *inpaint, "--mask", "random:1.5", code=2)
    assert "mask" in refused(capsys, augment, *inpaint, "--mask", "centre", code=2)
    assert "the positions are" in refused(
        capsys, augment, "outpaint", *inpaint[1:], "--positions", "middle", code=2
    )
    assert "--mask was random:0.5" in refused(
        capsys,
        augment,
        *inpaint,
        "--out",
        tiny["inpaint"],
        "--steps",
        3,
        "--batch-size",
        8,
        "--mask",
        "center",
        code=2,
    )
    write_images(tmp_path / "twins", ["a"], each=1)
    write_images(tmp_path / "twins", ["a"], each=1, suffix=".jpg")
    assert "differ only in their extension" in refused(
        capsys, augment, *inpaint, "--data", tmp_path / "twins", code=2
    )
    saved = torch.save(
        {"a": torch.optim.SGD}, tmp_path / "empty" / "generator.pth"
    )  # a class: code, not data
    assert saved is None
    assert "refused" in refused(capsys, augment, *inpaint, "--weights", tmp_path / "empty")
