"""The README cannot rot: its commands are parsed by the real parsers, its examples are executed."""

import argparse
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import PRETRAIN, ROOT, call, hashes, run, shell, stage_module, write_images

from base.run import load
from base.run_folder import run_arguments

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
BASH = "".join(block for kind, block in BLOCKS if kind == "bash")
COMMANDS = [line for line in BASH.splitlines() if line.startswith("python ")]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
EXAMPLES = {re.match(r"# (\w+\.py)", block)[1]: block for block in PYTHON}
COMMANDS_OF = sorted([*ROOT.glob("0*.py"), *ROOT.glob("extras/*.py"), *ROOT.glob("recipes/*.py")])
COMMANDS_OF = [script for script in COMMANDS_OF if "arguments(argv" in script.read_text()]


def test_commands_examples_files_and_lines():
    assert len(COMMANDS) >= 10
    things = ("generator", "strategy", "mask", "schedule", "method", "set")
    assert set(EXAMPLES) == {f"my_{thing}.py" for thing in things}
    for name, block in EXAMPLES.items():
        code = [line for line in block.splitlines() if line.strip()]
        limit = 41 if name == "my_method.py" else 21
        assert len(code) <= limit, f"{name}: at most {limit - 1} lines and its name"
    places = r"(?:recipes|models|docs|tests|extras)/[\w./]+"
    for name in re.findall(rf"`(?:python )?({places}|\d\d_\w+\.py)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    rows = re.findall(r"^\| `([\w/]+\.(?:py|sh))` \| (\d+) \|", README, re.M)
    assert len(rows) >= 7
    for name, lines in rows:
        assert int(lines) == len((ROOT / name).read_text().splitlines()), name


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, capsys):
    """Only --help ends this way with 0; a command that argparse refuses ends with 2."""
    _, script, *arguments = shlex.split(line, comments=True)
    with pytest.raises(SystemExit) as stop:
        call(script, *arguments, "--help")
    assert stop.value.code == 0
    stage_module(script).arguments(arguments)


@pytest.fixture
def example(tmp_path):
    """example(name, *arguments): run one of the README's files as it stands there."""
    for name, block in EXAMPLES.items():
        (tmp_path / name).write_text(block)
    how = {"env": {"PYTHONPATH": str(ROOT)}, "cwd": tmp_path}

    def start(name, *arguments, code=0):
        done = run(tmp_path / name, *arguments, code=code, **how)
        return done.stdout + done.stderr

    return start


def test_a_generator_and_a_method_of_ones_own(example, tiny, tmp_path):
    example("my_generator.py", tiny["train"], tmp_path / "tint")
    assert len(list((tmp_path / "tint" / "view0").rglob("*.jpg"))) == 24
    mirror = ["--generated", tmp_path / "tint", "--out", tmp_path / "run", "--epochs", 1]
    flags = ["--data", tiny["train"], *mirror, *PRETRAIN]
    own = ["--method", "align", "--uniformity", 0.5]
    example("my_method.py", *own, "--sharpness", 3, *flags)
    assert load(tmp_path / "run" / "backbone.pth")
    run(f"07_metrics.py cost {tmp_path}/tint --out {tmp_path}/cost --features {tmp_path}/run")
    args = run_arguments(tmp_path / "run")
    assert (args["uniformity"], args["sharpness"], args["queue"]) == (0.5, 3.0, None)
    said = example("my_method.py", *own, "--sharpness", 2, *flags, code=2)
    assert "--sharpness was 3.0, now 2.0" in said
    refused = ("--method", "vicreg", "--sharpness", 3), (*own, "--preset", "cifar")
    for words, said in zip(refused, ("vicreg has no such setting", "align has no"), strict=True):
        assert said in example("my_method.py", *words, *flags, code=2)


def test_strategies_masks_and_schedules_of_ones_own(example, tiny, tmp_path):
    flags = ["--data", tiny["train"], "--out", tmp_path / "gen", "--workers", 1]
    example("my_strategy.py", "jigsaw", *flags)
    assert len(list((tmp_path / "gen" / "view0").rglob("*.jpg"))) == 24
    assert (tmp_path / "gen" / "samples.png").exists()
    assert "is finished: 24 images" in example("my_strategy.py", "jigsaw", *flags)
    flags = ["--data", tiny["train"], "--out", tmp_path / "masked", "--workers", 0]
    weights = ["--weights", tiny["maskgit"], "--steps", 2]
    example("my_mask.py", "inpaint", "--mask", "checker", *weights, *flags)
    assert len(list((tmp_path / "masked" / "view0").rglob("*.png"))) == 24
    said = example("my_mask.py", "inpaint", "--mask", "chequer", *weights, *flags, code=2)
    assert "block:P, none, file:FOLDER, checker" in said
    late = ["--schedule", "late", *weights, "--mask", "random:0.5", "--steps", 3]
    example("my_schedule.py", "inpaint", *late, *flags, "--out", tmp_path / "late")
    late, cosine = (hashes(m, "view0/**/*") for m in (tmp_path / "late", tiny["inpaint"]))
    assert late.keys() == cosine.keys() and late != cosine
    assert "square,late" in example("my_schedule.py", "inpaint", "--help")


def test_a_data_set_of_ones_own(example, tmp_path):
    lines = []
    for split, each in (("train", 4), ("val", 2)):
        write_images(tmp_path / split, each=each)
        for file in sorted((tmp_path / split).glob("*/*.png")):
            lines.append(f"{split},{file.relative_to(tmp_path)},{file.parent.name}\n")
    (tmp_path / "birds.csv").write_text("".join(lines))
    network = ["--backbone", "random", "--architecture", "resnet10", "--small-images"]
    flags = ["--data", tmp_path, *network, "--size", 32, "--device", "cpu", "--workers", 1]
    said = example("my_set.py", "birds", *flags, "--out", tmp_path.parent / "birds")
    assert "birds: top1 100.00" in said
    assert "birds" in example("my_set.py", "--help")


HELP = """
import runpy, sys
script, folder, *commands = sys.argv[1:]
sys.path[0] = folder
for command in ["", *commands]:
    sys.argv = [script, *command.split(), "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
heavy = "torch torchvision diffusers transformers scipy matplotlib cv2 PIL".split()
assert not sys.modules.keys() & set(heavy), sys.modules.keys() & set(heavy)
"""
SUB = {"02_augment.py": ["diffusion", "noise"], "07_metrics.py": ["fid"]}
SUB |= {"train_augmenter.py": ["steer"]}


@pytest.mark.parametrize("script", COMMANDS_OF, ids=lambda script: script.name)
def test_help_needs_no_heavy_import(script):
    """Nor a network, nor that of a subcommand."""
    words = [script, script.parent, *SUB.get(script.name, [])]
    done = shell(sys.executable, "-c", HELP, *words)
    assert len(done.stdout.splitlines()) > 12


def parsers_of(script, monkeypatch):
    found = []

    def keep(parser, argv=None):
        found.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    with pytest.raises(SystemExit):
        stage_module(script).arguments([])
    for action in found[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


@pytest.mark.parametrize("script", sorted(ROOT.glob("0*.py")), ids=lambda script: script.name)
def test_every_flag_is_explained_by_a_noun(script, monkeypatch):
    for parser in parsers_of(script, monkeypatch):
        for action in parser._actions:
            if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
                continue
            name = action.dest
            assert action.help, f"{parser.prog}: --{name} has no help text"
            words = action.help.split()
            assert words[0] not in ("of", "their", "for"), f"{parser.prog}: --{name}: {action.help}"


def takes(action, text):
    try:
        value = action.type(text)
    except (ValueError, argparse.ArgumentTypeError, SystemExit):
        return False
    return not isinstance(value, (str, Path)) and (not action.choices or value in action.choices)


SIGNED = {"seed", "seeds", "subset_seed", "val_blocks_seed", "edit_strength", "steer_strength"}


@pytest.mark.parametrize("script", COMMANDS_OF, ids=lambda script: script.name)
def test_every_number_is_a_finite_one(script, monkeypatch):
    """Nor is it negative, but where that has a meaning. --levels and --bands check all at once."""
    monkeypatch.syspath_prepend(script.parent)
    for parser in parsers_of(script, monkeypatch):
        for action in parser._actions:
            if action.type is None or action.dest in ("levels", "bands"):
                continue
            name = f"{parser.prog} --{action.dest}"
            if takes(action, "0.5"):
                for text in ("nan", "inf", "-inf"):
                    assert not takes(action, text), f"{name} {text}"
            if action.dest not in SIGNED:
                assert not takes(action, "-1"), f"{name} -1"
