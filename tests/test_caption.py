"""01_caption.py: order, resuming after kill -9, processes, settings, refusals."""

import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_pipelines
from conftest import ROOT, run

from models.images import write_image

caption = importlib.import_module("01_caption")


def photographs(root, n=7, size=72):
    """Smooth random images in two classes."""
    from PIL import Image

    for i in range(n):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
        image = np.asarray(
            Image.fromarray(coarse).resize((size + 8 * i, size), Image.Resampling.BICUBIC)
        )
        write_image(root / f"class{i % 2}" / f"img{i}.jpg", image)
    return root


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(images, model, arguments, the caption file of an uninterrupted run in one process)."""
    root = tmp_path_factory.mktemp("caption")
    data, model = photographs(root / "data"), tiny_pipelines.blip(root / "blip")
    common = [
        "--data",
        str(data),
        "--model",
        str(model),
        "--batch-size",
        "2",
        "--workers",
        "0",
        "--max-tokens",
        "8",
    ]
    caption.main(caption.arguments([*common, "--out", str(root / "captions.jsonl")]))
    return data, model, common, root / "captions.jsonl"


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines(setup, capsys):
    data, _, common, out = setup
    lines = records(out)
    assert [line["path"] for line in lines] == sorted(
        p.relative_to(data).as_posix() for p in data.rglob("*.jpg")
    )
    assert len({line["caption"] for line in lines}) > 2 and all(
        set(line) == {"path", "caption"} for line in lines
    )
    assert out.with_suffix(".png").exists() and not list(out.parent.glob(".captions*"))
    before = out.stat().st_mtime_ns
    caption.main(caption.arguments([*common, "--out", str(out)]))
    assert "is finished: 7 captions" in capsys.readouterr().out and out.stat().st_mtime_ns == before


def test_kill_and_two_processes(setup, tmp_path):
    """Killed with -9, a torn line behind it, finished by two processes: nothing twice, the same file."""
    *_, common, reference = setup
    out = tmp_path / "captions.jsonl"
    with subprocess.Popen(
        [sys.executable, "01_caption.py", *common, "--out", str(out)], cwd=ROOT
    ) as process:
        part = tmp_path / ".captions.jsonl.part0"
        while not (part.exists() and part.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    if part.exists():  # else it was faster than the signal
        with open(part, "ab") as file:
            file.write(b'{"path": "class0/img')
        assert list(caption.read_lines(out))[:2] == ["class0/img0.jpg", "class0/img2.jpg"]
    run("01_caption.py", *common, "--out", out, processes=2)
    assert out.read_bytes() == reference.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "captions.args.json",
        "captions.jsonl",
        "captions.png",
    ]


def test_only_what_is_missing(setup, tmp_path, monkeypatch):
    """A caption file that ends in a torn line: only the batches that lack something are read again."""
    *_, common, reference = setup
    out = tmp_path / "captions.jsonl"
    lines = reference.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[5][:-4])
    read, load = [], caption.Images.__getitem__
    monkeypatch.setattr(
        caption.Images, "__getitem__", lambda self, i: read.append(i) or load(self, i)
    )
    caption.main(caption.arguments([*common, "--out", str(out)]))
    assert read == [4, 5, 6] and out.read_bytes() == reference.read_bytes()


def test_prompt_greedy_and_unreadable(setup, tmp_path, capsys):
    """Every caption begins with the prompt; a corrupt image gets an empty caption and is reported."""
    _, model, *_ = setup
    data = photographs(tmp_path / "data", 3)
    (data / "class0" / "torn.jpg").write_bytes(b"\xff\xd8 no image")
    out = tmp_path / "captions.jsonl"
    caption.main(
        caption.arguments(
            [
                "--data",
                str(data),
                "--model",
                str(model),
                "--out",
                str(out),
                "--workers",
                "1",
                "--num-beams",
                "1",
                "--prompt",
                "a photo of",
                "--max-tokens",
                "5",
            ]
        )
    )
    lines = {line["path"]: line for line in records(out)}
    torn = lines.pop("class0/torn.jpg")
    assert torn["caption"] == "" and "not an image file" in torn["error"]
    assert all(line["caption"].startswith("a photo of ") for line in lines.values())
    assert "3 captions; 1 image(s) cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, code, message",
    [
        (["--num-beams", "1"], 2, "--num-beams was 3, now 1"),
        (["--out", "captions.txt"], 2, "must be the name of a .jsonl file"),
        (
            ["--out", "new.jsonl", "--model", "nobody/nothing"],
            1,
            "nobody/nothing is neither a local folder",
        ),
        (["--out", "new.jsonl", "--model", "no/such/folder"], 2, "no/such/folder is not a folder"),
        (
            ["--out", "new.jsonl", "--model", "{data}"],
            2,
            "has no config.json. Expected: a folder with",
        ),
        (["--data", "{data}/class7"], 2, "is not a folder"),
    ],
)
def test_refusals(setup, tmp_path, capsys, change, code, message):
    data, _, common, out = setup
    change = [
        str(tmp_path / c) if c.endswith((".jsonl", ".txt")) else c.format(data=data) for c in change
    ]
    with pytest.raises(SystemExit) as stop:
        caption.main(caption.arguments([*common, "--out", str(out), *change]))
    assert stop.value.code == code and message in capsys.readouterr().err


def test_wrong_weights(setup, tmp_path, capsys):
    """A model folder that lacks a weight is refused with its name, one of another kind with its kind."""
    from safetensors.torch import load_file, save_file

    _, model, common, _ = setup
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    for message in ("vision_model.post_layernorm.weight", "is a clip model, not a BLIP"):
        with pytest.raises(SystemExit):
            caption.main(
                caption.arguments(
                    [*common, "--out", str(tmp_path / "c.jsonl"), "--model", str(tmp_path)]
                )
            )
        assert message in capsys.readouterr().err
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))


@pytest.mark.parametrize(
    "script", ["01_caption.py", "00_train_diffusion.py", "02_augment.py diffusion"]
)
def test_help_is_light(script):
    """--help neither imports torch nor needs a network."""
    code = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *script.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout or "--width" in done.stdout
