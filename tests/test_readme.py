"""The README cannot rot: its commands are parsed by the real parsers, its worked examples are executed."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import PRETRAIN, ROOT, call, run

from models.old_run import load

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if line[:7] == "python "
]
EXAMPLES = {re.match(r"# (\w+\.py)", block)[1]: block for kind, block in BLOCKS if kind == "python"}


def test_there_are_commands_and_examples():
    assert len(COMMANDS) >= 10 and set(EXAMPLES) == {"my_generator.py", "my_loss.py"}
    assert all(len(block.strip().splitlines()) <= 24 for block in EXAMPLES.values())


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, capsys):
    """Only --help ends this way with 0; a command that argparse refuses ends with 2."""
    _, script, *arguments = shlex.split(line, comments=True)
    with pytest.raises(SystemExit) as stop:
        call(script, *arguments, "--help")
    assert stop.value.code == 0
    call.modules[script.removesuffix(".py")].arguments(arguments)


def test_files_it_names_exist():
    for name in re.findall(
        r"`((?:recipes|models|docs|tests)/[\w./]+|\d\d_\w+\.py|bench\.py)`", README
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name


def test_worked_examples(tiny, tmp_path):
    for name, block in EXAMPLES.items():
        (tmp_path / name).write_text(block)
    subprocess.run(
        [sys.executable, tmp_path / "my_generator.py", tiny["train"], tmp_path / "tint"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert len(list((tmp_path / "tint" / "view0").rglob("*.jpg"))) == 24
    run(
        tmp_path / "my_loss.py",
        "--method",
        "align",
        "--data",
        tiny["train"],
        "--generated",
        tmp_path / "tint",
        "--out",
        tmp_path / "run",
        "--epochs",
        1,
        "--projector",
        "16-8",
        *PRETRAIN,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert load(tmp_path / "run" / "backbone.pth")


@pytest.mark.parametrize("script", sorted(p.name for p in ROOT.glob("0*.py")))
def test_help_needs_no_heavy_import(script):
    code = (
        f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib', 'cv2', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert len(done.stdout.splitlines()) > 15
