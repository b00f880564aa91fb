"""02_augment.py diffusion and 00_train_diffusion.py on tiny pipelines of the published classes."""

import importlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_pipelines
import torch
from conftest import ROOT, run
from test_caption import photographs

from models import diffusion
from models.old_run import image_seed

augment = importlib.import_module("02_augment")
train = importlib.import_module("00_train_diffusion")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(images, sdxl folder, ddim folder, caption file)."""
    root = tmp_path_factory.mktemp("diffusion")
    data = photographs(root / "data", 6)
    paths = sorted(p.relative_to(data).as_posix() for p in data.rglob("*.jpg"))
    lines = [
        json.dumps({"path": path, "caption": f"a bird and {'the ' * i}sea"})
        for i, path in enumerate(paths)
    ]
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return (
        data,
        tiny_pipelines.sdxl(root / "sdxl"),
        tiny_pipelines.ddim(root / "ddim"),
        root / "captions.jsonl",
    )


def arguments(setup, *more, kind="sdxl"):
    data, sdxl, ddim, captions = setup
    model = (
        ["--model", str(sdxl), "--captions", str(captions)]
        if kind == "sdxl"
        else ["--model", str(ddim)]
    )
    return augment.arguments(
        [
            "diffusion",
            "--data",
            str(data),
            "--out",
            str(data.parent / "out"),
            *model,
            "--workers",
            "0",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            *more,
        ]
    )


def inputs(setup, strategy):
    paths = sorted(p.relative_to(setup[0]).as_posix() for p in setup[0].rglob("*.jpg"))
    return torch.from_numpy(np.stack([strategy.read(setup[0] / path) for path in paths])), paths


def fails(capsys, call, code):
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == code
    return capsys.readouterr().err


# ---------------------------------------------------------------- steps
def test_fewest_steps():
    assert [diffusion.fewest_steps(s) for s in (1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.07, 0.01)] == [
        1,
        2,
        3,
        4,
        5,
        10,
        15,
        100,
    ]
    for strength in np.random.default_rng(0).uniform(0.002, 1, 2000):
        n = diffusion.fewest_steps(strength)
        assert int(n * strength) == 1 or strength == 1
        assert n == 1 or strength * (n - 1) < 1


def test_levels(setup):
    """The level at which denoising starts, with SDXL-Turbo's scheduler; and as diffusers' pipeline would start."""
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler.from_pretrained(setup[1] / "scheduler")
    levels = {s: diffusion.plan(s, scheduler)["level"] for s in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)}
    assert levels == pytest.approx(
        {0: 0, 0.1: 0.1, 0.2: 0.2, 0.3: 0.25, 0.4: 1 / 3, 0.5: 0.5, 1.0: 1.0}, abs=1e-3
    )
    assert diffusion.plan(0.3, scheduler, 10)["steps_run"] == 3


def test_too_few_steps(setup, capsys):
    error = fails(capsys, lambda: diffusion.diffusion(arguments(setup, "--steps", "4"), CPU), 2)
    assert "strength x steps must be at least 1" in error and "--steps 5" in error
    error = fails(
        capsys, lambda: diffusion.diffusion(arguments(setup, "--strength", "0.0005"), CPU), 2
    )
    assert "needs 2000 steps, but the model's schedule has 1000" in error


# ---------------------------------------------------------------- generation
def test_equals_the_official_call(setup):
    """Same images as diffusers' own pipeline called with prompt, image and the same generators."""
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from PIL import Image

    strategy = diffusion.diffusion(
        arguments(setup, "--strength", "0.3", "0.6", "--steps", "5"), CPU
    )
    assert strategy.views == ["strength0.3/view0", "strength0.6/view0"] and strategy.size == 64
    images, paths = inputs(setup, strategy)
    captions = diffusion.read_captions(setup[3])
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(setup[1], add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    for strength, ours in zip((0.3, 0.6), strategy.generate(images, paths), strict=True):
        theirs = pipe(
            [captions[p] for p in paths],
            image=[Image.fromarray(i) for i in images.numpy()],
            strength=strength,
            num_inference_steps=5,
            guidance_scale=0.0,
            output_type="np",
            generator=[torch.Generator().manual_seed(image_seed(0, p, 0)) for p in paths],
        ).images
        assert np.abs(ours.numpy() - theirs * 255).max() < 1


@pytest.mark.parametrize("kind", ["sdxl", "ddim"])
def test_strength(setup, kind):
    """Near 0 the reconstruction (--strength 0) comes back; more strength goes further away from it."""
    strengths = [0, 0.002, 0.1, 0.2, 0.3, 0.4, 0.5]
    args = arguments(setup, "--strength", *map(str, strengths), "--no-vae-slicing", kind=kind)
    strategy = diffusion.diffusion(args, CPU)
    images, paths = inputs(setup, strategy)
    views = strategy.generate(images, paths).double()
    distances = [(view - views[0]).abs().mean().item() for view in views]
    assert (
        distances == sorted(distances) and distances[1] < 0.3 * distances[2] and distances[2] > 1
    ), distances
    if kind == "ddim":  # pixel space: no reconstruction error at all
        assert torch.equal(views[0], images.double())
    levels = [plan["level"] for plan in strategy.about["strengths"].values()]
    assert levels == sorted(levels)
    titles, rows, labels = strategy.sheet(images[:2], paths[:2])
    assert (
        titles == ["original", "0", "0.002", "0.1", "0.2", "0.3", "0.4", "0.5"] and len(rows) == 2
    )
    assert len(rows[0]) == len(titles) and (
        labels == () if kind == "ddim" else labels[1] == "a bird and the sea"
    )


@pytest.mark.parametrize("kind", ["sdxl", "ddim"])
def test_noise_depends_on_path_and_seed(setup, kind):
    """Other batch mates change nothing, another seed does; slicing the VAE changes nothing."""
    args = arguments(setup, "--strength", "0.5", kind=kind)
    strategy = diffusion.diffusion(args, CPU)
    images, paths = inputs(setup, strategy)
    together = strategy.generate(images, paths)[0].int()
    alone = strategy.generate(images[3:4], paths[3:4])[0].int()
    assert (together[3:4] - alone).abs().max() <= 1
    args.seed, args.vae_slicing = 1, False
    other = diffusion.diffusion(args, CPU).generate(images, paths)[0].int()
    assert (together - other).abs().double().mean() > 1
    args.seed = 0
    again = diffusion.diffusion(args, CPU).generate(images, paths)[0].int()
    assert (together - again).abs().max() <= 1


def test_captions_matter_and_store_size(setup):
    args = arguments(setup, "--strength", "0.5", "--store-size", "24")
    strategy = diffusion.diffusion(args, CPU)
    images, paths = inputs(setup, strategy)
    with_captions = strategy.generate(images, paths)
    assert (
        with_captions.shape == (1, 6, 24, 24, 3)
        and strategy.views == ["view0"]
        and strategy.size == 24
    )
    args.captions, args.no_caption = None, True
    without = diffusion.diffusion(args, CPU).generate(images, paths)
    assert not torch.equal(with_captions, without)


def test_kill_and_two_processes(setup, tmp_path):
    """Killed with -9 and finished by two processes: the files of an uninterrupted run, none written twice."""
    data, sdxl, _, captions = setup
    common = [
        "diffusion",
        "--data",
        data,
        "--model",
        sdxl,
        "--captions",
        captions,
        "--strength",
        "0.1",
        "0.5",
        "--batch-size",
        "1",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(
        [sys.executable, "02_augment.py", *map(str, common), "--out", str(tmp_path / "killed")],
        cwd=ROOT,
    ) as process:
        while len(list((tmp_path / "killed").rglob("img*.png"))) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    finished = [
        p
        for p in (tmp_path / "killed" / "strength0.1").rglob("img*.png")
        if (
            tmp_path / "killed" / "strength0.5" / p.relative_to(tmp_path / "killed" / "strength0.1")
        ).exists()
    ]
    times = {path: path.stat().st_mtime_ns for path in finished}
    run("02_augment.py", *common, "--out", tmp_path / "killed", processes=2)
    augment.main(augment.arguments([*map(str, common), "--out", str(tmp_path / "whole")]))
    whole = {
        p.relative_to(tmp_path / "whole"): p.read_bytes()
        for p in (tmp_path / "whole").rglob("img*.png")
    }
    assert (
        whole
        == {
            p.relative_to(tmp_path / "killed"): p.read_bytes()
            for p in (tmp_path / "killed").rglob("img*.png")
        }
        and len(whole) == 12
    )
    assert times and all(path.stat().st_mtime_ns == then for path, then in times.items())
    assert (tmp_path / "killed" / "samples.png").exists()


# ---------------------------------------------------------------- bad input
GOOD = b'{"path": "class0/img0.jpg", "caption": "a"}\n'


@pytest.mark.parametrize(
    "content, message",
    [
        (GOOD + b'{"path": "class0/i', "line 2 is not JSON"),
        (GOOD + b'{"path": "class1/img1.jpg"}\n', 'line 2 has no "path" or no "caption"'),
        (b'["a", "b"]\n', 'line 1 has no "path"'),
        (GOOD * 2, "line 2 names class0/img0.jpg a second time"),
        (
            b'{"path": "../img0.jpg", "caption": "a"}\n',
            "line 1 names ../img0.jpg, which is outside the data folder",
        ),
        (
            b'{"path": "/etc/img0.jpg", "caption": "a"}\n',
            "line 1 names /etc/img0.jpg, which is outside",
        ),
        (GOOD + b'{"path": "class1/img1.jpg", "caption": "caf\xe9"}\n', "line 2 is not UTF-8"),
    ],
)
def test_caption_file(tmp_path, capsys, content, message):
    (tmp_path / "captions.jsonl").write_bytes(content)
    error = fails(capsys, lambda: diffusion.read_captions(tmp_path / "captions.jsonl"), 1)
    assert message in error and error.count("\n") == 1


def test_missing_captions(setup, tmp_path, capsys):
    args = arguments(setup)
    args.captions = str(tmp_path / "captions.jsonl")
    assert "cannot be read" in fails(capsys, lambda: diffusion.captions_of(args), 2)
    (tmp_path / "captions.jsonl").write_bytes(GOOD)
    error = fails(capsys, lambda: diffusion.captions_of(args), 1)
    assert (
        "lacks 5 of the 6 images" in error
        and f"01_caption.py --data {setup[0]} --out {args.captions}" in error
    )
    args.captions = None
    assert "--no-caption" in fails(capsys, lambda: diffusion.captions_of(args), 2)
    args.no_caption = True
    assert diffusion.captions_of(args) is None


@pytest.mark.parametrize(
    "change, code, message",
    [
        (
            {"model": "stabilityai/sdxl-none"},
            1,
            "stabilityai/sdxl-none is neither a local folder nor in the cache",
        ),
        ({"model": "{data}"}, 2, "has no model_index.json. Expected: a diffusers pipeline folder"),
        ({"model": "{ddim}"}, 2, "is unconditional and takes no text"),
        ({"size": 60}, 2, "--size 60 is not a multiple of 8"),
    ],
)
def test_refusals(setup, capsys, change, code, message):
    args = arguments(setup)
    for key, value in change.items():
        setattr(
            args,
            key,
            value.format(data=setup[0], ddim=setup[2]) if isinstance(value, str) else value,
        )
    assert message in fails(capsys, lambda: diffusion.diffusion(args, CPU), code)


def test_wrong_pipelines(setup, tmp_path, capsys):
    """Missing weights, a missing part, other classes, a pickle: one sentence each."""
    import shutil

    from safetensors.torch import load_file, save_file

    args, folder = arguments(setup, kind="ddim"), tmp_path / "model"
    args.model = str(folder)

    def attempt(change):
        shutil.copytree(setup[2], folder)
        change()
        error = fails(
            capsys, lambda: diffusion.diffusion(args, CPU), 1 if change is not other_kind else 2
        )
        shutil.rmtree(folder)
        return error

    def edit_index(**entries):
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **entries}))

    def lose_a_weight():
        weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        del weights["conv_in.weight"]
        save_file(
            weights, folder / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"}
        )

    def only_a_pickle():
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")

    def other_kind():
        edit_index(_class_name="FluxPipeline")

    assert (
        "lacks weights of UNet2DModel" in (error := attempt(lose_a_weight))
        and "conv_in.weight" in error
    )
    assert "cannot be loaded as UNet2DModel" in attempt(only_a_pickle)
    assert "is a FluxPipeline. Expected" in attempt(other_kind)
    assert "not of diffusers or transformers" in attempt(
        lambda: edit_index(unet=["my_code", "UNet"])
    )
    assert "model_index.json:" in attempt(lambda: edit_index(scheduler=[None, None]))


# ---------------------------------------------------------------- training one
def test_train_resume_and_use(setup, tmp_path, monkeypatch, capsys):
    """Interrupted and continued = uninterrupted; the run folder is a pipeline that 02_augment.py takes."""
    from safetensors.torch import load_file

    common = [
        "--data",
        str(setup[0]),
        "--size",
        "16",
        "--epochs",
        "4",
        "--batch-size",
        "3",
        "--width",
        "32",
        "--multipliers",
        "1",
        "1",
        "--blocks",
        "1",
        "--workers",
        "0",
        "--ema",
        "0.9",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(train, "STEPS", 10)
    whole = train.arguments([*common, "--out", str(tmp_path / "whole")])
    train.main(whole)

    class Stop(Exception):
        pass

    def stopping_bar(*args):
        bar = progress(*args)
        bar.update = lambda: (
            (_ for _ in ()).throw(Stop) if args[2] == 0 and len(saved) == 3 else None
        )
        return bar

    progress, save, saved = train.run.progress, train.run.save_checkpoint, []
    monkeypatch.setattr(train.run, "progress", stopping_bar)
    monkeypatch.setattr(
        train.run, "save_checkpoint", lambda *a, **state: (saved.append(1), save(*a, **state))
    )
    args = train.arguments([*common, "--out", str(tmp_path / "parts"), "--checkpoint-minutes", "0"])
    with pytest.raises(Stop):
        train.main(args)
    assert (tmp_path / "parts" / "checkpoint.pth").exists() and not (
        tmp_path / "parts" / "model_index.json"
    ).exists()
    args.checkpoint_minutes = 10
    train.main(args)
    a, b = (
        load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "parts")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (
        not (tmp_path / "parts" / "checkpoint.pth").exists()
        and (tmp_path / "parts" / "samples.png").exists()
    )
    train.main(args)
    assert "is finished" in capsys.readouterr().out

    args = arguments(setup, kind="ddim")
    args.model = str(tmp_path / "whole")
    strategy = diffusion.diffusion(args, CPU)
    assert strategy.about["strengths"]["0.2"] == {
        "steps": 50,
        "steps_run": 10,
        "timestep": 199.0,
        "level": 0.2,
    }
    assert strategy.generate(*inputs(setup, strategy)).shape == (1, 6, 16, 16, 3)


def test_other_schedulers(setup, tmp_path):
    """A DDPM folder is sampled with DDIM; an LCM-style one with the fewest steps; both start at the level asked for."""
    from diffusers import DDPMScheduler, LCMScheduler

    for scheduler, kind, expected in (
        (DDPMScheduler(), "DDPM", ("DDIMScheduler", 50)),
        (LCMScheduler(), "DDIM", ("LCMScheduler", 5)),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "unet").symlink_to(setup[2] / "unet")
        scheduler.save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(
            json.dumps(
                {
                    "_class_name": f"{kind}Pipeline",
                    "unet": ["diffusers", "UNet2DModel"],
                    "scheduler": ["diffusers", type(scheduler).__name__],
                }
            )
        )
        args = arguments(setup, kind="ddim")
        args.model = str(folder)
        strategy = diffusion.diffusion(args, CPU)
        steps = strategy.about["strengths"]["0.2"]
        assert (strategy.about["scheduler"], steps["steps"]) == expected and steps[
            "level"
        ] == pytest.approx(0.2)
        assert strategy.generate(*inputs(setup, strategy)).float().std() > 1
