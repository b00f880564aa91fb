"""recipes/start.sh: how many processes a recipe starts."""

import os

import pytest
from conftest import shell

SHOW = 'source recipes/start.sh; echo "$LAUNCH"'


def start(python, folder, code=0, **environment):
    """Source start.sh with a `python` that is the given shell script."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{python}\n")
    script.chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "TINY": ""}
    return shell("bash", "-c", SHOW, code=code, **environment)


@pytest.mark.parametrize(
    ("seen", "launch"),
    [(0, "run python"), (1, "run python"), (3, "run torchrun --standalone --nproc_per_node=3")],
)
def test_as_many_processes_as_pytorch_sees_gpus(tmp_path, seen, launch):
    assert start(f"echo {seen}", tmp_path).stdout.strip() == launch


def test_the_user_decides_and_no_pytorch_is_one_sentence(tmp_path):
    done = start("exit 1", tmp_path, GPUS="2")
    assert done.stdout.strip().endswith("--nproc_per_node=2")
    done = start("exit 1", tmp_path, code=1)
    assert done.stderr.startswith("python has no torch: ")
    assert len(done.stderr.splitlines()) == 1
