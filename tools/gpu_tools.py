"""What the sections of gpu_check.py share: the report, commands of the stages, and little data."""

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from base import run

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
SECOND_TIME = "is finished"  # what a stage says that has nothing left to do


# ---------------------------------------------------------------- the report
class Report:
    """The lines of all sections. A line is a dict: section, verdict, name, value, limit."""

    def __init__(self, file=None, machine=None):
        """file: where the lines are written, after each of them. machine: what they hold for."""
        self.file = file
        self.machine = machine
        self.section = ""
        self.lines = []
        self.seconds = {}

    def add(self, verdict, name, value="", limit=""):
        """verdict: ok, FAIL, skip or info."""
        if isinstance(value, float):
            value = f"{value:.3g}"
        line = {"section": self.section, "verdict": verdict, "name": name}
        line |= {"value": str(value), "limit": limit}
        self.lines.append(line)
        self.write()
        shown = f"({limit})" if limit else ""
        print(f"{verdict:<4}  {self.section:<6}  {name:<52} {value!s:<12} {shown}", flush=True)

    def ended(self, seconds):
        """The section took so long."""
        self.seconds[self.section] = seconds
        self.write()

    def write(self):
        """What there is so far: a run that is cut off loses nothing."""
        if self.file:
            whole = {"machine": self.machine, "seconds": self.seconds, "lines": self.lines}
            run.write_json(self.file, whole)

    def expect(self, name, fulfilled, value="", limit=""):
        self.add("ok" if fulfilled else "FAIL", name, value, limit)

    def at_most(self, name, value, limit, unit=""):
        self.expect(name, value <= limit, float(value), f"<= {limit:g}{unit}")

    def at_least(self, name, value, limit, unit=""):
        self.expect(name, value >= limit, float(value), f">= {limit:g}{unit}")

    def info(self, name, value):
        self.add("info", name, value)

    @contextlib.contextmanager
    def guard(self, name):
        """A check that breaks is a line, and the next one goes on."""
        try:
            yield
        except ModuleNotFoundError as error:
            self.add("skip", name, f"no {error.name}")
        except (Exception, SystemExit) as error:
            text = str(error).strip() or type(error).__name__
            self.add("FAIL", name, text.splitlines()[-1][:200])

    def count(self, verdict):
        return sum(line["verdict"] == verdict for line in self.lines)

    def summary(self):
        """The last line."""
        failed = [line["name"] for line in self.lines if line["verdict"] == "FAIL"]
        text = f"{self.count('ok')} ok, {self.count('skip')} skipped, {len(failed)} failed"
        return f"{text}: {', '.join(failed)}" if failed else text


def relative(value, reference):
    """|value - reference| / |reference| of two tensors, in float64 on the CPU."""
    value = value.detach().cpu().double()
    reference = reference.detach().cpu().double()
    return float((value - reference).norm() / reference.norm().clamp(min=1e-30))


# ---------------------------------------------------------------- commands of the stages
class Failed(Exception):
    """A stage ended with another exit code than it should."""


def command(words, processes=1):
    """words: a script and its arguments, relative to the root of the project."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [PYTHON, *launcher, *map(str, words)]


def stage(*words, processes=1, code=0, timeout=500, **environment):
    """Run a stage and return what it printed; raises `Failed` with its last line otherwise."""
    done = subprocess.run(
        command(words, processes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )
    if done.returncode != code:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()
        raise Failed(f"{words[0]} ended with {done.returncode}, not {code}: {last[-1]}")
    return done.stdout + done.stderr


def started(*words, processes=1, **environment):
    """The same in the background: a Popen, the leader of a process group of its own.

    What it prints is dropped: nobody reads it meanwhile, and a full pipe would stop the stage.
    """
    return subprocess.Popen(
        command(words, processes),
        cwd=ROOT,
        stdin=subprocess.PIPE,  # tells kill_group when all of them are gone
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | environment,
    )


def wait_for(condition, process, seconds=120):
    """Wait until condition() is true; raises `Failed` if the process ends or time runs out."""
    end = time.time() + seconds
    while not condition():
        if process.poll() is not None or time.time() > end:
            raise Failed("the stage ended, or hung, before it could be disturbed")
        time.sleep(0.01)


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    gone(process)


def gone(process, seconds=60):
    """Wait for the end of all that a Popen's process has started: nobody holds its input then."""
    ends = select.poll()
    ends.register(process.stdin, 0)
    ends.poll(1000 * seconds)


def children(process):
    """{rank: process id} of the processes that torchrun has started (Linux)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            ranks = [v.split(b"=")[1] for v in variables if v.startswith(b"RANK=")]
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if ranks and parent == process.pid:
                found[int(ranks[0])] = int(folder.name)
    return found


def installed(*packages):
    """Raise ModuleNotFoundError for the first package that is not there."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name, name=name)


# ---------------------------------------------------------------- little data and networks
VQGAN = (
    "--size 32 --filters 16 --multipliers 1 --unshuffle 4 --blocks 1 --codes 32 --code-dim 8 "
    "--groups 4 --perceptual-weight 0 --gan-weight 0 --learning-rate 3e-3 --batch-size 8"
).split()
MASKGIT = "--layers 1 --dim 32 --heads 2 --batch-size 8 --learning-rate 1e-3 --ema 0.9".split()
PRETRAIN = (
    "--backbone resnet10 --small-images --size 32 --store-size 32 --batch-size 8 --optimizer adamw "
    "--learning-rate 0.01 --warmup-epochs 0 --log-every 1 --projector 16-16"
).split()
PROJECTORS = {"dino": "16-16-8-24", "simclr": "16-16-8", "byol": "16-8", "swav": "16-8-12"}


class Workshop:
    """Little images and what is made of them by the stages, each once, on the chosen device."""

    def __init__(self, folder, device):
        self.folder = Path(folder)
        self.common = ["--device", device, "--workers", "0"]

    def images(self, size=32, each=8):
        """ROOT/train and ROOT/val with three classes of stripes."""
        from tiny import picture

        root = self.folder / f"images{size}-{each}"
        if not root.exists():
            for split, shift in (("train", 0), ("val", each)):
                for kind, name in enumerate(("a", "b", "c")):
                    for i in range(each):
                        path = root / split / name / f"{i:03d}.png"
                        picture(path, kind, i + shift, (size, size))
        return root

    def photographs(self, number):
        """A folder of JPEG files of 500 x 375 pixels."""
        from bench_tools import photographs

        folder = self.folder / f"photographs{number}"
        if not folder.exists():
            photographs(folder, number)
        return folder

    def once(self, name, *words):
        """The folder `name` that the stage makes; its command is run the first time only."""
        out = self.folder / name
        if not out.exists():
            stage(*words, "--out", out, *self.common)
        return out

    def tokenizer(self):
        train = self.images() / "train"
        words = ["00_train_generator.py", "vqgan", "--data", train, "--epochs", 4, *VQGAN]
        return self.once("vqgan", *words)

    def generator(self):
        train = self.images() / "train"
        words = ["00_train_generator.py", "maskgit", "--data", train, "--epochs", 4, *MASKGIT]
        return self.once("maskgit", *words, "--tokenizer", self.tokenizer())

    def mirror(self):
        train = self.images() / "train"
        words = ["02_augment.py", "inpaint", "--data", train, "--weights", self.generator()]
        return self.once("inpaint", *words, "--mask", "random:0.5", "--steps", 3)

    def encoder(self):
        train = self.images() / "train"
        return self.once("encoder", "03_pretrain.py", "--data", train, "--epochs", 2, *PRETRAIN)
