"""Tests run each stage as a user would, on a CPU, offline; every process gets one thread."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


def run(script, *args, processes=1, code=0, env=None, timeout=600):
    """Run `python script args` (under torchrun for several processes); return the finished process.

    Fails unless it exits with `code`; an error must be a sentence, never a traceback."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run([*command, str(script), *map(str, args)], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, **(env or {})})
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if processes == 1:
        assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return done


@pytest.fixture(scope="session")
def stage():
    return run
