"""Every recipe is run with TINY=1, and every command of its full size is parsed by the stage that
it is meant for.
"""

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
from collections import Counter

import pytest
from conftest import ROOT, run_recipe

from base.run_folder import run_arguments

FULL = {
    "DATA": "/data/imagenet",
    "PLACES": "/p",
    "VOC": "/v",
    "COCO": "/c",
    "DRY": "1",
    "GPUS": "1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all recipes, as for a user: what one has made the next one uses."""
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def recipe(place):
    """recipe(name, code, **environment): run it with TINY=1, return what it printed."""

    def start(name, code=0, **environment):
        tiny = {"TINY": "1", "TINY_DATA": f"{place}/data", "TINY_RUNS": f"{place}/runs"}
        done = run_recipe(name, code, **tiny | environment)
        return done.stdout if code == 0 else done.stderr

    return start


def results(runs, *evaluations):
    """Names of the runs that have such a result, which is looked at too."""
    found = set()
    for evaluation in evaluations:
        for file in runs.glob(f"*-{evaluation}/result.json"):
            assert 0 <= json.loads(file.read_text())["results"]["top1"]["mean"] <= 100, file
            found.add(file.parent.name.removesuffix(f"-{evaluation}").removesuffix("-seed0"))
    return found


def cells(runs, title, row):
    """The cells of a row of a table of report.md, without its name."""
    table = (runs / "report.md").read_text().split(f"### {title}")[1].split("###")[0]
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


# ---------------------------------------------------------------- ImageNet
def test_table4(recipe, place):
    recipe("table4_mixing")
    runs = place / "runs/imagenet"
    arms = {
        "baseline",
        "real-gamma0.5-crop",
        "reconstruction-gamma0.5-crop",
        "random-label-gamma0.5-crop",
        "one-label-gamma0.5-crop",
        "oracle-gamma0.5-crop",
        "neighbour-gamma0.5-crop",
        "baseline-equal-time",
        *(f"{s}-gamma{g}-crop" for s in ("noise", "inpaint") for g in (0.25, 0.5)),
    }
    for evaluation in ("linear", "1percent", "10percent"):
        assert results(runs, evaluation) >= arms
    for row in ("Non-Generative 0 %", "Noise-Based 25 %", "In-Painting 50 %"):
        assert all(cells(runs, "Table 4", row))
    for row in (
        "Control: baseline of equal time (125 epochs)",
        "Control: In-Painting 50 %, random label",
        "Control: In-Painting 50 %, one label for all",
        "Oracle: another image of the class 50 %",
        "The most similar other image 50 %",
    ):
        assert cells(runs, "Table 4", row)[1], row
    assert (
        cells(runs, "Table 4", "In-Painting 50 %")[0] == "68.7"
        and not cells(runs, "Table 4", "Noise-Based 75 %")[1]
    )
    report = (runs / "report.md").read_text()
    assert "real, control" in report and "inpaint (mask none), control" in report
    differences = report.split("### Paired differences")[1].split("###")[0]
    for name in ("mask center, label random", "label 0", "same-class, oracle", "neighbour"):
        assert name in differences, name
    for name in ("noise", "inpaint", "reconstruction"):
        mirror = place / "data/generated/imagenet" / name
        assert len(list(mirror.glob("view0/*/*"))) == 32 and (mirror / "samples.png").exists()


def test_table3(recipe, place):
    recipe("table3_pairing")
    runs = place / "runs/imagenet"
    arms = {f"{s}-gamma1-{p}" for s in ("noise", "inpaint", "real") for p in ("none", "crop")}
    assert results(runs, "1percent") & results(runs, "10percent") & results(runs, "linear") >= arms
    for row in ("ICGAN", "ICGAN + Crop", "MaskGIT", "MaskGIT + Crop", "Control: real image + Crop"):
        assert all(cells(runs, "Table 3", row))
    for arm in arms:
        assert run_arguments(runs / f"{arm}-seed0")["mix"] == 1


def test_table2(recipe, place):
    recipe("table2_features")
    runs = place / "runs/imagenet"
    arms = ("baseline", "gaussian", "steer-zoom", "navigator", "real")
    assert results(runs, "linear") >= {f"simclr-{arm}" for arm in arms}
    rows = ("SimCLR, real images", "Gaussian (GenRep)", "Steering (GenRep)", "Navigator (COP-Gen)")
    for row in (*rows, "Control: real image in both views"):
        assert cells(runs, "Table 2", row)[1], row


def test_table5(recipe, place):
    said = recipe("table5_transfer")
    assert said.count("is finished") == 3  # Table 4's mirror and encoders are used
    runs = place / "runs/imagenet"
    for data in ("places365", "voc07", "coco"):
        assert results(runs, data) == {"baseline", "inpaint-gamma0.5-crop"}
    assert (
        all(cells(runs, "Table 5", "In-Painting"))
        and cells(runs, "Table 5", "Hand-Crafted")[0] == "47.6"
    )
    before = {
        file: file.stat().st_mtime_ns for file in runs.glob("*/*") if file.parent.name != "cost"
    }
    again = recipe("table5_transfer")  # the same command once more: nothing is left to do
    assert again.count("is finished") == 9
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_table6(recipe, place):
    recipe("table6_cost")
    runs = place / "runs/imagenet"
    rows = json.loads((runs / "cost/cost.json").read_text())["rows"]
    made = {"noise", "inpaint", "outpaint", "reconstruction", "diffusion/strength0.2", "jitter"}
    assert rows.keys() == made
    assert all(row["fid"] > 0 and row["latency_ms"] > 0 for row in rows.values())
    assert all(cells(runs, "Table 6", "In-Painting")) and cells(runs, "Table 6", "Out-Painting")[1]
    assert len(list((place / "data/generated/imagenet/outpaint").glob("view*/*/*"))) == 2 * 32


def test_table7(recipe, place):
    recipe("table7_summary")
    runs = place / "runs/imagenet"
    assert results(runs, "linear") >= {
        "diffusion0-gamma0.5-crop-flip",
        "diffusion0.2-gamma0.5-crop-flip",
        "real-gamma0.5-crop-flip",
    }
    for row in ("Traditional", "Noise", "In-Painting", "Diffusion"):
        assert all(cells(runs, "Table 7", row))
    assert "assumption" in (runs / "report.md").read_text()


# ---------------------------------------------------------------- ImageNet-100
def test_figure30(recipe, place):
    recipe("figure30_strength")
    runs = place / "runs/imagenet100"
    assert sorted(os.listdir(place / "data/imagenet100/train")) == [
        "n01558993",
        "n01692333",
        "n01729322",
    ]
    assert results(runs, "linear") == {
        "dino-baseline",
        "dino-real",
        "dino-strength0",
        "dino-strength0.2",
    }
    for row in (
        "No generated view (gamma 0)",
        "Control: real image",
        "Strength 0.0",
        "Strength 0.2",
    ):
        assert cells(runs, "Figure 30", row)[0] == "–" and cells(runs, "Figure 30", row)[1]
    assert (runs / "figure30.png").exists()


def test_figure31(recipe, place):
    recipe("figure31_views")
    runs = place / "runs/imagenet100"
    assert results(runs, "linear") >= {
        f"{method}-{arm}"
        for method in ("barlow", "swav")
        for arm in ("baseline", "views1", "views2", "real-views2", "reconstruction-views1")
    }
    for method in ("Barlow Twins", "SwAV"):
        for row in (
            f"{method}, 0 views",
            f"{method}, 2 views",
            f"{method}, 2 views, control: real image",
        ):
            assert cells(runs, "Figure 31", row)[1]
    assert run_arguments(runs / "swav-views2-seed0")["views"] == 2


# ---------------------------------------------------------------- satellite images
def test_quickstart(recipe, place):
    said = recipe("quickstart")
    runs = place / "runs/quickstart"
    assert results(runs, "1labels") == {"baseline", "generated", "control", "oracle"}
    assert (runs / "report.png").stat().st_size > 50_000
    numbers = json.loads((runs / "report.json").read_text())
    arms = {arm["generated view"] for arm in numbers["arms"] if arm["method"] == "simclr"}
    assert arms == {"none", "inpaint (mask random:0.5)", "same-class, oracle", "real, control"}
    assert "simclr: oracle minus baseline" in said and "supervised" in said and "What next" in said


def test_quickstart_trains_its_generator_on_demand(place):
    environment = {"TINY": "1", "DRY": "1", "GENERATOR": "train", "TINY_RUNS": f"{place}/dry"}
    done = run_recipe("quickstart", **environment)
    assert "00_train_generator.py maskgit" in done.stdout


def test_digits(recipe, place):
    recipe("digits")
    runs = place / "runs/digits"
    assert results(runs, "1labels") == {"baseline", "control", "mask25", "oracle"}
    assert results(runs, "cached") == {"baseline", "control", "mask25", "oracle"}
    assert "Paired differences" in (runs / "report.txt").read_text()


def test_figure33(recipe, place):
    recipe("figure33_satellite")
    runs = place / "runs/satellite"
    arms = {
        "baseline",
        "control-gamma0.5",
        "reconstruction-gamma0.5",
        "long-mask0.25-gamma0.5",
        "long-control-gamma0.5",
        "long-baseline",
        "mask0.25-gamma0.5",
        "mask0.5-gamma0.5",
        "oracle-gamma0.5",
    }
    assert {file.parent.name for file in runs.glob("linear-*/result.json")} == {
        f"linear-{a}-seed0" for a in arms
    }
    assert len(list(runs.glob("supervised-*/result.json"))) == 2
    assert (runs / "figure32.png").exists() and (runs / "report.png").exists()


# ---------------------------------------------------------------- weights
def test_weights(recipe, place):
    """Without a network it ends with the address; with the files there it keeps their hashes and
    notices a change.
    """
    unplugged = {
        name: "http://127.0.0.1:9"
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")
    }
    sentence = (
        recipe("weights", code=1, GCL_WEIGHTS=str(place / "empty"), **unplugged)
        .strip()
        .splitlines()[-1]
    )
    assert "https://dl.fbaipublicfiles.com/ic_gan/" in sentence and str(place / "empty") in sentence

    folder = shutil.copytree(place / "data/weights", place / "prepared")
    offline = unplugged | {
        "GCL_WEIGHTS": str(folder),
        "FILES": "icgan swav maskgit-tokenizer",
        "HUB": "",
    }
    said = recipe("weights", **offline)
    sums, file = (folder / "SHA256SUMS").read_text(), folder / "tokenizer_imagenet256_checkpoint"
    assert "CC BY-NC 4.0" in said and hashlib.sha256(file.read_bytes()).hexdigest() in sums
    assert "./imagenet_subsets/10percent.txt" in sums
    file.write_bytes(b"something else")
    assert file.name in recipe("weights", code=1, **offline)


def test_imagenet100_of_other_data(tmp_path):
    (tmp_path / "train/cat").mkdir(parents=True)
    done = subprocess.run(
        ["bash", "recipes/imagenet100.sh", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "DATA": str(tmp_path), "TINY": ""},
    )
    assert done.returncode == 1 and "lacks 100 of the 100 classes" in done.stderr
    listed, known = (
        {line for line in (ROOT / name).read_text().splitlines() if line[0] != "#"}
        for name in ("recipes/imagenet100.txt", "augment/imagenet_synsets.txt")
    )
    assert len(listed) == 100 and listed < known


# ---------------------------------------------------------------- at full size
def parsed(name, **environment):
    """[(stage, its parsed arguments)] of every command that the recipe would run."""
    done = run_recipe(name, **FULL | {"TINY": ""} | environment)
    found = []
    for line in done.stdout.splitlines():
        stage = line.startswith(("$ python 0", "$ python extras/"))
        words = shlex.split(line) if stage else []
        if words:
            if words[2] not in parsed.stages:
                spec = importlib.util.spec_from_file_location("stage", ROOT / words[2])
                parsed.stages[words[2]] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(parsed.stages[words[2]])
            found.append((words[2], parsed.stages[words[2]].arguments(words[3:])))
    return found


parsed.stages = {}
ARMS = {
    "table2_features": 5,
    "table3_pairing": 16,
    "table4_mixing": 26,
    "table5_transfer": 6,
    "table6_cost": 5,
    "table7_summary": 9,
    "figure30_strength": 8,
    "figure31_views": 40,
    "figure33_satellite": 24,
}


@pytest.mark.parametrize("name", ARMS)
def test_full_size(name):
    commands = parsed(name)
    trained = [args for stage, args in commands if stage == "03_pretrain.py"]
    assert len({args.out for args in trained}) == len(trained) == ARMS[name]
    assert commands[-1][0] == "07_metrics.py" and commands[-1][1].command == "report"
    mirrors = {args.out for stage, args in commands if stage == "02_augment.py"}
    for args in trained:  # nothing is used before it is made
        for folder in args.generated:
            assert folder == "real" or folder in mirrors or os.path.dirname(folder) in mirrors
    augmenters = {args.out for stage, args in commands if stage.startswith("extras/")}
    for stage, args in commands:
        if stage == "02_augment.py":
            for file in (getattr(args, "steer", None), getattr(args, "navigator", None)):
                assert not file or os.path.dirname(file) in augmenters
    evaluated = Counter(stage for stage, _ in commands)
    if name in ("table3_pairing", "table4_mixing"):
        assert (
            evaluated["04_linear_eval.py"] * 2
            == evaluated["05_semisup_eval.py"]
            == 2 * len(trained)
        )


def test_full_size_settings():
    """The settings of the dissertation that are easily mistaken."""

    def trained(name):
        return {
            args.out.split("/")[-1].removesuffix("-seed0"): args
            for stage, args in parsed(name)
            if stage == "03_pretrain.py"
        }

    assert {args.mix for args in trained("table3_pairing").values()} == {1}
    assert {tuple(args.pair) for args in trained("table6_cost").values()} == {("none",)}
    table4, table7 = trained("table4_mixing"), trained("table7_summary")
    assert {args.mix for args in table4.values() if args.generated == ["real"]} == {
        0.25,
        0.5,
        0.75,
        1,
    }
    shared = table4.keys() & table7.keys()
    assert len(shared) == 6 and all(vars(table4[name]) == vars(table7[name]) for name in shared)
    assert {args.mix for args in trained("table2_features").values()} == {0, None}  # 1 if generated
    for name, args in trained("table2_features").items():
        assert (args.method, args.size) == ("simclr", 128)
        assert args.both_generated == (name != "simclr-baseline")
    table3, table6 = trained("table3_pairing"), trained("table6_cost")
    for name in ("real-gamma1-none", "inpaint-gamma1-none"):
        assert vars(table3[name]) == vars(table6[name])
    assert table4["baseline-equal-time"].epochs == 125
    labels = [
        args.label
        for stage, args in parsed("table4_mixing")
        if stage == "02_augment.py" and args.strategy == "inpaint"
    ]
    assert labels == [None, None, "random", 0]  # in-painting, reconstruction, and two controls
    pools = [args.pool for _, args in parsed("table5_transfer") if hasattr(args, "pool")]
    assert pools == [6] * 6
    [diffusion] = [a for s, a in parsed("figure30_strength") if s == "02_augment.py"]
    for strength in diffusion.strength:  # exact: a whole number of steps
        assert int(diffusion.steps * strength) == pytest.approx(diffusion.steps * strength)
    figure30 = trained("figure30_strength")
    assert {
        (args.method, args.mix, *args.pair)
        for name, args in figure30.items()
        if name != "dino-baseline"
    } == {("dino", 0.5, "crop", "flip")}
    figure31 = trained("figure31_views")
    assert {(args.views, args.batch_size) for args in figure31.values()} == {
        (1, 768),
        (2, 512),
        (3, 384),
    }
    assert {args.mix for args in figure31.values()} == {0, 1}
