"""Tests run each stage as a user would, on a CPU, offline; every process gets one thread."""

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_python import warm

pytest_plugins = ["evaluation_study", "icgan_release", "metric_fixtures"]
ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "extras")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# `python` of a recipe is the one that runs the tests.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ["GCL_WEIGHTS"] = "/nonexistent"  # not those that happen to be on the machine

from gpu_tools import gone  # on the path only now


def words_of(script, *args):
    """The words of a command: a script, or the text of a whole command, and more arguments."""
    return [*(script.split() if isinstance(script, str) else [str(script)]), *map(str, args)]


@functools.cache
def warm_python():
    """The `python` of warm_python.py, started once for each process that runs tests."""
    stack = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    python = stack.enter_context(warm(folder))
    atexit.register(stack.close)
    return python / "python"


def run(script, *args, processes=1, code=0, env=None, timeout=600, cold=False, **how):
    """Run `python script args` (on several processes as under torchrun); return what finished.

    script: a file, or the text of a whole command. how: for subprocess.run. The exit code must be
    `code`; an error is no traceback. cold: new interpreters, not forks of the warm `python`.
    """
    environment = {**os.environ, **(env or {})}
    if cold or processes == 1:
        launcher = f"-m torch.distributed.run --standalone --nproc_per_node={processes}".split()
        python = sys.executable if cold else str(warm_python())
        whole = [python, *(launcher if processes > 1 else []), *words_of(script, *args)]
        how = {"cwd": ROOT, "capture_output": True, "timeout": timeout, "env": environment} | how
        done = subprocess.run(whole, text=True, errors="surrogateescape", **how)
    else:
        with started(script, *args, processes=processes, env=environment) as all_ranks:
            done = all_ranks.wait(timeout)
    said = f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == code, said
    if processes == 1:
        assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return done


class Ranks:
    """The processes of one stage, forks of the warm `python`, each with its number as by torchrun.

    A failure of one ends the others. The store is held here, so that no process takes it along.
    """

    def __init__(self, words, processes, environment, folder):
        self.folder = Path(folder)
        self.running = []
        environment = dict(environment)
        if processes > 1:
            from torch.distributed import TCPStore

            self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port)}
            environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
            environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
            environment |= {"TORCHELASTIC_RESTART_COUNT": "0"}
        for rank in range(processes):
            if processes > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen(
                [str(warm_python()), *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=open(self.folder / f"stdout{rank}", "wb"),
                stderr=open(self.folder / f"stderr{rank}", "wb"),
                env=environment,
            )
            self.running.append(process)

    def poll(self):
        """None while the processes run, then 0 or, where one of them failed, 1."""
        codes = [process.poll() for process in self.running]
        if any(codes):
            self.kill()
            return 1
        return None if None in codes else 0

    def kill(self):
        """SIGKILL for all processes, and the forks behind them: they are gone afterwards."""
        for process in self.running:
            process.kill()
            process.wait()
            gone(process)

    def end(self, timeout):
        """SIGTERM to all processes, as by torchrun; what subprocess.run returns."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(timeout)
        codes = {process.returncode for process in self.running}
        assert len(codes) == 1, codes
        return self.said(codes.pop())

    def wait(self, timeout):
        """What subprocess.run returns: the exit code, and the output of all processes."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired(self.running[0].args, timeout)
            time.sleep(0.01)
        return self.said(code)

    def said(self, code):
        """An exit code with the output of all processes."""
        said = []
        for name in ("stdout", "stderr"):
            parts = [path.read_bytes() for path in sorted(self.folder.glob(f"{name}*"))]
            said.append(b"".join(parts).decode("utf-8", "surrogateescape"))
        return subprocess.CompletedProcess(self.running[0].args, code, *said)


@contextlib.contextmanager
def started(script, *args, processes=1, env=None):
    """The `Ranks` of a stage in the background; what still runs at the end is killed."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = Ranks(words_of(script, *args), processes, env or os.environ, folder)
        try:
            yield ranks
        finally:
            ranks.kill()


def shell(*words, code=0, timeout=600, **environment):
    """Run a program in the root with this exit code and environment; return what finished."""
    how = {"cwd": ROOT, "env": {**os.environ, **environment}, "timeout": timeout}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **how)
    said = f"{words}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == code, said
    return done


def run_recipe(name, code=0, timeout=900, **environment):
    """Run `bash recipes/NAME.sh` with the warm `python`; return what finished."""
    path = f"{warm_python().parent}:{os.environ['PATH']}"
    how = {"code": code, "timeout": timeout, "PATH": path} | environment
    done = shell("bash", f"recipes/{name}.sh", **how)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


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


def run_killed(script, *args, when, processes=1, delay=0.0):
    """Start a stage, kill -9 it `delay` seconds after `when()` is true; False if it had ended."""
    with started(script, *args, processes=processes) as ranks:
        while ranks.poll() is None and not when():
            time.sleep(0.005)
        time.sleep(delay)
        killed = ranks.poll() is None
        ranks.kill()
    return killed


@functools.cache
def stage_module(script):
    """A script of the project as a module of this process."""
    spec = importlib.util.spec_from_file_location(f"stage_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(script, *args):
    """The same stage inside this process: for checks that end before anything heavy begins."""
    from base.run import launch

    script, *words = words_of(script, *args)
    module = stage_module(script)
    return launch(module.main, module.arguments(words))


def sentences(capsys, function, *args, code=None):
    """Call a function that must end the run; return the lines that it said on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        function(*args)
    assert stop.value.code == code if code else stop.value.code in (1, 2), stop.value.code
    return capsys.readouterr().err.strip().splitlines()


def sentence(capsys, function, *args, code=None):
    """Call a function that must end the run; return the one sentence that it said."""
    (line,) = sentences(capsys, function, *args, code=code)
    return line


def refused(capsys, script, *args, code=None):
    """Call a stage that must refuse; return its one sentence, behind what else it said."""
    return sentences(capsys, call, script, *args, code=code)[-1]


def hashes(folder, *patterns):
    """{relative path: digest} of the files below a folder, or of those that match."""
    files = [f for p in patterns or ["**/*"] for f in Path(folder).glob(p) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def equal(a, b):
    """Two nested structures of tensors and values are bit for bit equal."""
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def write_images(root, classes=("a", "b", "c"), each=8, size=32, seed=0, suffix=".png"):
    """Little pictures: stripes of a direction and colour that belong to the class, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    for c, name in enumerate(classes):
        (Path(root) / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            wave = np.sin(12 * (x * np.cos(c) + y * np.sin(c)) + rng.uniform(0, 6))[..., None]
            colour = np.array([c == 0, c == 1, c == 2]) * 120 + rng.uniform(40, 100, 3)
            pixels = colour + 50 * wave + rng.normal(0, 8, (size, size, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(Path(root) / name / f"{i:03d}{suffix}", quality=95)
    return Path(root)


VQGAN = (
    "--size 32 --filters 16 --multipliers 1 --unshuffle 4 --blocks 1 --codes 32 --code-dim 8 "
    "--groups 4 --perceptual-weight 0 --gan-weight 0 --learning-rate 3e-3 --batch-size 8 "
    "--workers 0"
).split()
MASKGIT = (
    "--layers 1 --dim 32 --heads 2 --batch-size 8 --learning-rate 1e-3 --ema 0.9 --workers 0"
).split()
PRETRAIN = (
    "--backbone resnet10 --small-images --size 32 --store-size 32 --batch-size 8 --optimizer adamw "
    "--learning-rate 0.01 --warmup-epochs 0 --log-every 1 --workers 0"
).split()


@pytest.fixture(autouse=True)
def no_levels_or_bands(monkeypatch):
    """No test inherits them, also not from a flag that an earlier one gave."""
    monkeypatch.setenv("GCL_LEVELS", "")
    monkeypatch.setenv("GCL_BANDS", "")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny data set with labels, a generator trained on it and a mirror: {name: path}."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(root):
    """The same in a folder of one's own."""
    write_images(root / "data" / "train")
    write_images(root / "data" / "val", each=6, seed=1)
    data = root / "data" / "train"
    generator = f"00_train_generator.py {{}} --data {data} --epochs 12 --out {root}/{{}}"
    run(generator.format("vqgan", "vqgan"), *VQGAN)
    run(generator.format("maskgit", "maskgit"), "--tokenizer", root / "vqgan", *MASKGIT)
    inpaint = f"02_augment.py inpaint --data {data} --weights {root}/maskgit --mask random:0.5"
    run(f"{inpaint} --steps 3 --out {root}/inpaint --workers 0 --batch-size 8")
    made = {name: root / name for name in ("data", "vqgan", "maskgit", "inpaint")}
    return {"root": root, "train": data} | made
