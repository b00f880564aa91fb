"""Every recipe is run with TINY=1, and every command of its full size is parsed by its stage."""

import functools
import hashlib
import json
import os
import shlex
import shutil
from collections import Counter

import pytest
from conftest import ROOT, run_recipe, shell, stage_module
from planted_results import cells
from tiny import main as tiny_data

from base.run_folder import run_arguments

FULL = {"DATA": "/data/imagenet", "PLACES": "/p", "VOC": "/v", "COCO": "/c"}
FULL |= {"DRY": "1", "GPUS": "1"}


@pytest.fixture(scope="module")
def once(recipe):
    return functools.cache(recipe)


def results(runs, evaluation):
    """Names of the runs that have such a result, which is looked at too."""
    arms = set()
    for file in runs.glob(f"*-{evaluation}/result.json"):
        assert 0 <= json.loads(file.read_text())["results"]["top1"]["mean"] <= 100, file
        arms.add(file.parent.name.removesuffix(f"-{evaluation}").removesuffix("-seed0"))
    return arms


ARMS = {  # recipe: arms that have a result
    "table4_mixing": "baseline inpaint-gamma0.5-crop real-gamma0.5-crop "
    "reconstruction-gamma0.5-crop random-label-gamma0.5-crop",
    "table3_pairing": "noise-gamma1-crop real-gamma1-crop",
    "table2_features": "simclr-baseline simclr-gaussian simclr-steer-zoom simclr-navigator "
    "simclr-real",
    "table7_summary": "diffusion0.2-gamma0.5-crop-flip real-gamma0.5-crop-flip",
    "figure30_strength": "dino-baseline dino-real dino-strength0.2",
    "figure31_views": "swav-baseline swav-views2 swav-real-views2 swav-reconstruction-views1",
}
ROWS = {  # title in the report: rows with numbers
    "Table 4": "Non-Generative 0 %; In-Painting 50 %; Control: In-Painting 50 %, random label",
    "Table 3": "ICGAN + Crop; Control: real image + Crop",
    "Table 2": "SimCLR, real images; Gaussian (GenRep); Steering (GenRep); Navigator (COP-Gen); "
    "Control: real image in both views",
    "Table 7": "Traditional; In-Painting; Diffusion",
    "Figure 30": "No generated view (gamma 0); Control: real image; Strength 0.2",
    "Figure 31": "SwAV, 0 views; SwAV, 2 views; SwAV, 2 views, control: real image",
}


@pytest.mark.parametrize("name, title", list(zip(ARMS, ROWS, strict=True)))
def test_tiny(once, place, name, title):
    whole = name == "table4_mixing"
    once(name, **({} if whole else {"SEMIS": ""}))
    runs = place / "runs" / ("imagenet100" if title.startswith("Figure") else "imagenet")
    for evaluation in ["linear", "1percent", "10percent"] if whole else ["linear"]:
        assert results(runs, evaluation) >= set(ARMS[name].split())
    for row in ROWS[title].split("; "):
        assert cells(runs, title, row)[1], row


def test_what_table4_leaves(once, place):
    once("table4_mixing")
    runs = place / "runs/imagenet"
    assert cells(runs, "Table 4", "In-Painting 50 %")[0] == "68.7"
    assert not cells(runs, "Table 4", "Noise-Based 75 %")[1]
    report = (runs / "report.md").read_text()
    assert "real, control" in report and "inpaint (mask none), control" in report
    assert "mask center, label random" in report.split("### Paired differences")[1].split("###")[0]
    for name in ("inpaint", "reconstruction", "random-label"):
        mirror = place / "data/generated/imagenet" / name
        assert len(list(mirror.glob("view0/*/*"))) == 32 and (mirror / "samples.png").exists()


def test_what_the_figures_leave(once, place):
    for name in ("figure30_strength", "figure31_views"):
        once(name, SEMIS="")
    runs = place / "runs/imagenet100"
    linked = "n01558993 n01692333 n01729322".split()
    assert sorted(os.listdir(place / "data/imagenet100/train")) == linked
    assert cells(runs, "Figure 30", "Strength 0.2")[0].startswith("0.8 above")
    assert (runs / "figure30.png").exists()
    assert run_arguments(runs / "swav-views2-seed0")["views"] == 2


def test_table5(recipe, once, place):
    once("table4_mixing")
    said = recipe("table5_transfer")
    assert said.count("is finished") == 3  # Table 4's mirror and encoders are used
    runs = place / "runs/imagenet"
    for data in ("places365", "voc07", "coco"):
        assert results(runs, data) == {"baseline", "inpaint-gamma0.5-crop"}
    assert all(cells(runs, "Table 5", "In-Painting"))
    assert cells(runs, "Table 5", "Hand-Crafted")[0] == "47.6"
    files = [file for file in runs.glob("*/*") if file.parent.name != "cost"]
    before = {file: file.stat().st_mtime_ns for file in files}
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
    # Features of a small network: such rows do not compare with the dissertation's.
    for mirror in ("inpaint", "outpaint"):
        assert all(cells(runs, "Mirrors: distance from the originals", mirror))
    assert len(list((place / "data/generated/imagenet/outpaint").glob("view*/*/*"))) == 2 * 32


def test_quickstart(recipe, place):
    said = recipe("quickstart")
    runs = place / "runs/quickstart"
    assert results(runs, "1labels") == {"baseline", "generated", "control", "oracle"}
    for name in ("report", "digits", "tiles"):
        assert (runs / f"{name}.png").stat().st_size > 10_000
    numbers = json.loads((runs / "report.json").read_text())
    arms = {arm["generated view"] for arm in numbers["arms"] if arm["method"] == "simclr"}
    assert arms == {"none", "inpaint (mask random:0.5)", "same-class, oracle", "real, control"}
    assert "simclr: oracle minus baseline" in said and "supervised" in said and "What next" in said
    environment = {"TINY": "1", "DRY": "1", "GENERATOR": "train", "TINY_RUNS": f"{place}/dry"}
    done = run_recipe("quickstart", **environment)
    assert "00_train_generator.py maskgit" in done.stdout and "03_pretrain.py" in done.stdout
    done = run_recipe("quickstart", **environment | {"DRY": "", "CHECK": "1"})
    assert "what this recipe needs" in done.stdout and not (place / "dry").exists()


def test_digits_and_satellite_tiles(recipe, place):
    recipe("digits")
    runs = place / "runs/digits"
    assert results(runs, "1labels") == results(runs, "cached") == {"baseline", "mask25"}
    assert "Paired differences" in (runs / "report.md").read_text()
    recipe("figure33_satellite")
    runs = place / "runs/satellite"
    arms = {file.parent.name for file in runs.glob("linear-*/result.json")}
    assert arms == {"linear-baseline-seed0", "linear-mask0.25-gamma0.5-seed0"}
    assert (runs / "figure32.png").exists() and (runs / "report.png").exists()


def test_dino_vit(recipe, place):
    recipe("dino_vit")
    runs = place / "runs/imagenet100"
    for arm, mix in (("baseline", 0.0), ("inpaint", 0.5), ("real", 0.5)):
        about = json.loads((runs / f"vit-{arm}-seed0-linear/result.json").read_text())["backbone"]
        assert about["backbone"] == "vit_tiny_patch8" and about["method"] == "dino"
        assert (about["mix"], about["weight_decay_end"]) == (mix, 0.4)


def test_weights(recipe, place):
    """Without a network it ends with the address; files that are there keep their hashes."""
    tiny_data(place / "data")
    proxies = ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")
    unplugged = dict.fromkeys(proxies, "http://127.0.0.1:9")
    said = recipe("weights", code=1, GCL_WEIGHTS=str(place / "empty"), **unplugged)
    sentence = said.strip().splitlines()[-1]
    assert "https://dl.fbaipublicfiles.com/ic_gan/" in sentence and str(place / "empty") in sentence
    folder = shutil.copytree(place / "data/weights", place / "prepared")
    offline = unplugged | {"GCL_WEIGHTS": str(folder), "FILES": "icgan swav maskgit-tokenizer"}
    offline["HUB"] = ""
    said = recipe("weights", **offline)
    sums, file = (folder / "SHA256SUMS").read_text(), folder / "tokenizer_imagenet256_checkpoint"
    assert "CC BY-NC 4.0" in said and hashlib.sha256(file.read_bytes()).hexdigest() in sums
    assert "./imagenet_subsets/10percent.txt" in sums
    file.write_bytes(b"something else")
    assert file.name in recipe("weights", code=1, **offline)


def test_imagenet100_of_other_data(tmp_path):
    (tmp_path / "train/cat").mkdir(parents=True)
    script = "recipes/imagenet100.sh"
    done = shell("bash", script, tmp_path / "out", code=1, DATA=str(tmp_path), TINY="")
    assert "lacks 100 of the 100 classes" in done.stderr
    classes = []
    for name in ("recipes/imagenet100.txt", "augment/imagenet_synsets.txt"):
        lines = (ROOT / name).read_text().splitlines()
        classes.append({line for line in lines if line[0] != "#"})
    assert len(classes[0]) == 100 and classes[0] < classes[1]


@functools.cache
def parsed(name, **environment):
    """[(stage, its parsed arguments)] of every command that the recipe would run."""
    done = run_recipe(name, **FULL | {"TINY": ""} | environment)
    found = []
    for line in done.stdout.splitlines():
        if line.startswith(("$ python 0", "$ python extras/")):
            _, _, script, *words = shlex.split(line)
            module = stage_module(script)
            if script == "extras/feature_noise.py":  # it adds its strategy to those of stage 02
                script, module = "02_augment.py", stage_module("02_augment.py")
            found.append((script, module.arguments(words)))
    return found


ENCODERS = dict(table2_features=5, table3_pairing=16, table4_mixing=27, table5_transfer=6)
ENCODERS |= dict(table6_cost=5, table7_summary=9, figure30_strength=8, figure31_views=40)
ENCODERS |= dict(figure33_satellite=24, dino_vit=3, digits=30)
FULL_SIZES = [(*item, FULL["DATA"]) for item in ENCODERS.items()]
FULL_SIZES.append(("figure33_satellite", 18, ""))  # the embedded images


@pytest.mark.parametrize(("name", "arms", "data"), FULL_SIZES)
def test_full_size(name, arms, data):
    commands = parsed(name, DATA=data)
    trained = [args for stage, args in commands if stage == "03_pretrain.py"]
    assert len({args.out for args in trained}) == len(trained) == arms
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
        assert evaluated["04_linear_eval.py"] == len(trained)
        assert evaluated["05_semisup_eval.py"] == 2 * len(trained)


def trained(name):
    arms = [args for stage, args in parsed(name) if stage == "03_pretrain.py"]
    return {args.out.split("/")[-1].removesuffix("-seed0"): args for args in arms}


BOTH_GENERATED = {("simclr", 128, False, 0), ("simclr", 128, True, None)}  # 1 if both are generated
STRENGTHS = {("dino", 0, ("crop",)), ("dino", 0.5, ("crop", "flip"))}
TRANSFORMERS = {(mix, "vit_small_patch16", True, "dino") for mix in (0, 0.5)}
VIEWS = {(1, 768, 0), (1, 768, 1), (2, 512, 1), (3, 384, 1)}
VALUES = {  # recipe: (flags of its encoders, their values); settings that are easily mistaken
    "table3_pairing": ("mix", {(1,)}),
    "table6_cost": ("pair mix", {(("none",), 1)}),
    "table2_features": ("method size both_generated mix", BOTH_GENERATED),
    "figure30_strength": ("method mix pair", STRENGTHS),
    "dino_vit": ("mix backbone grad_checkpoint method", TRANSFORMERS),
    "figure31_views": ("views batch_size mix", VIEWS),
}


@pytest.mark.parametrize("name", VALUES)
def test_settings(name):
    flags, expected = VALUES[name]
    values = [[getattr(args, flag) for flag in flags.split()] for args in trained(name).values()]
    rows = {tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in values}
    assert rows == expected


def test_settings_across_tables():
    table3, table4 = trained("table3_pairing"), trained("table4_mixing")
    real = {args.mix for args in table4.values() if args.generated == ["real"]}
    assert real == {0.25, 0.5, 0.75, 1}
    assert table4["baseline-equal-time"].epochs == 125
    pairs = [(table4, trained("table7_summary"), 6), (table3, trained("table6_cost"), 3)]
    for one, other, names in pairs:
        shared = one.keys() & other.keys()
        assert len(shared) == names and all(vars(one[arm]) == vars(other[arm]) for arm in shared)
    augmented = [args for stage, args in parsed("table4_mixing") if stage == "02_augment.py"]
    labels = [args.label for args in augmented if args.strategy == "inpaint"]
    assert labels == [None, None, "random", 0]  # in-painting, reconstruction, and two controls
    controls = {"STUDY": "imagenet100", "SEMIS": "", "STRATEGIES": "inpaint", "GAMMAS": "0.5"}
    commands = [args for _, args in parsed("table4_mixing", **controls) if hasattr(args, "mask")]
    [masked] = [args for args in commands if args.mask and "diffusion" in args.out]
    assert masked.strategy == "diffusion" and masked.strength == [1] and masked.no_caption
    pools = [args.pool for _, args in parsed("table5_transfer") if hasattr(args, "pool")]
    assert pools == [6] * 6
    [diffusion] = [a for s, a in parsed("figure30_strength") if s == "02_augment.py"]
    for strength in diffusion.strength:  # exact: a whole number of steps
        assert int(diffusion.steps * strength) == pytest.approx(diffusion.steps * strength)


SHOW = 'source recipes/start.sh; echo "$LAUNCH"'


def start(python, folder, code=0, **environment):
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{python}\n")
    script.chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "TINY": ""}
    return shell("bash", "-c", SHOW, code=code, **environment)


LAUNCH = [(0, "run python"), (1, "run python"), (3, "run torchrun --standalone --nproc_per_node=3")]


@pytest.mark.parametrize(("seen", "launch"), LAUNCH)
def test_as_many_processes_as_pytorch_sees_gpus(tmp_path, seen, launch):
    assert start(f"echo {seen}", tmp_path).stdout.strip() == launch


def test_the_user_decides_and_no_pytorch_is_one_sentence(tmp_path):
    done = start("exit 1", tmp_path, GPUS="2")
    assert done.stdout.strip().endswith("--nproc_per_node=2")
    done = start("exit 1", tmp_path, code=1)
    assert done.stderr.startswith("python has no torch: ")
    assert len(done.stderr.splitlines()) == 1
