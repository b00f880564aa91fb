"""Bad values for the flags of every stage: none may end in a traceback, a hang or without a word.

    python tools/fuzz.py                                  # 100 command lines a stage: 20 minutes
    python tools/fuzz.py --only 03 --first 17 --trials 1  # one of them again

A trial takes a command that works on tiny data and gives bad values to one to three of its flags.
The flags and their types are those of the stage's own parser. A trial depends only on --seed, the
stage and its number. A command that computes longer than --seconds gets SIGTERM. It must end then;
where none of its numbers explains the time, that is a hang as well.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.util
import io
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # for a start as a file

import tiny
from conftest import MASKGIT, PRETRAIN, VQGAN
from warm_python import HEAVY, become

SMALL = "--data data/train --out out --size 32 --workers 0"
PAINT = "--data data/train --out out --weights runs/maskgit --steps 2 --workers 0"
MEASURE = "--backbone runs/base --out out --workers 0"
LAYER = f"--data data {MEASURE} --epochs 1 --batch-size 8"
COMMANDS = {  # positional arguments come first
    "00_train_generator.py vqgan": f"--data data/train --out out --epochs 1 {' '.join(VQGAN)}",
    "00_train_generator.py maskgit": "--data data/train --out out --epochs 1 "
    f"--tokenizer runs/vqgan {' '.join(MASKGIT)}",
    "01_caption.py": "--data data/train --out out.jsonl --model blip --max-tokens 4 --workers 0",
    "02_augment.py inpaint": PAINT,
    "02_augment.py outpaint": f"{PAINT} --positions left",
    "02_augment.py noise": "--data data/train --out out --workers 0",
    "02_augment.py diffusion": "--data data/train --out out --model sdxl --no-caption --workers 0",
    "02_augment.py crop": SMALL,
    "02_augment.py jitter": SMALL,
    "02_augment.py blur": SMALL,
    "02_augment.py same-class": SMALL,
    "02_augment.py neighbour": f"{SMALL} --backbone runs/base",
    "03_pretrain.py": "--data data/train --out out --epochs 1 --projector 8-8 "
    f"{' '.join(PRETRAIN)}",
    "04_linear_eval.py": LAYER,
    "05_semisup_eval.py": f"{LAYER} --percent 100",
    "06_transfer.py voc07": f"--data voc --costs 1 {MEASURE}",
    "06_transfer.py coco": f"--data coco {MEASURE}",
    "06_transfer.py places365": f"--data places365 {MEASURE}",
    "06_transfer.py folder": f"--data data {MEASURE}",
    "07_metrics.py check": "data/train --workers 0",
    "07_metrics.py fid": "data/train gen/view0 --features runs/base --workers 0",
    "07_metrics.py ssim": "data/train gen/view0 --workers 0",
    "07_metrics.py cost": "gen --out out --features runs/base --images 2 --workers 0",
    "07_metrics.py sheet": "data/train gen/view0 --out out.png",
    "07_metrics.py report": "runs",
}
READ = {  # what the commands read, beside the images, and what makes it
    "runs/vqgan": "00_train_generator.py vqgan",
    "runs/maskgit": "00_train_generator.py maskgit",
    "runs/base": "03_pretrain.py",
    "runs/base-linear": "04_linear_eval.py",
    "gen": "02_augment.py blur",
}
# Not --: argparse loses the value of --out=-- before Python 3.12.5.
NUMBERS = "0 1 2 3 7 100 65537 2147483647 2147483648 4294967296 99999999999999999999 -1 -7 1.5 0.1 "
NUMBERS = [*(NUMBERS + "1e-300 1e38 1e400 nan inf -inf x 1_0 0x10 ٣").split(), "", " 3"]
TEXTS = ". .. ~ typo no/such x/../data data data/train data/train/ data/val gen gen/view0 runs "
TEXTS += "runs/base runs/base/backbone.pth runs/base:x runs/vqgan runs/maskgit runs/base-linear "
TEXTS += "blip sdxl voc out.jsonl x.png cap[v2].jsonl * %s {} é -x --- none all random real 8-8-8 "
TEXTS = [*TEXTS.split(), "", " ", "a b", "x\ny", "\udcff", "x" * 300, "data/train/n01440764"]


# ---------------------------------------------------------------- flags and values
def actions(script):
    """{script, or script and sub-command: the actions of its parser}."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True) as parse:
        parse.side_effect = InterruptedError
        with contextlib.suppress(InterruptedError):
            module.arguments([])
    parser = parse.call_args.args[0]
    found = {script: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = {f"{script} {name}": each for name, each in action.choices.items()}
    return {
        name: [action for action in each._actions if action.dest != "help"]
        for name, each in found.items()
    }


def accepts(action, text):
    """True if the parser takes a text for this flag: what is wrong with it shows later."""
    try:
        action.type(text)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True


def value(action, rng):
    """A value for an action of a parser, mostly one that the parser takes."""
    if action.choices and rng.random() < 0.9:
        return str(rng.choice(list(action.choices)))
    words = re.findall(r"[\w:./-]+", action.help or "")
    values = rng.choice([TEXTS, TEXTS, words or TEXTS, NUMBERS])
    if getattr(action.type, "__name__", "") in ("int", "float"):
        values = NUMBERS
    if action.type and rng.random() < 0.8:
        values = [text for text in values if accepts(action, text)] or NUMBERS
    return rng.choice(values)


def command_line(script, flags, rng):
    """The words of a trial. flags: see `actions`."""
    name = rng.choice(sorted(flags))
    words = COMMANDS[name].split()
    positional = [action for action in flags[name] if not action.option_strings]
    for action in rng.sample(flags[name], rng.choice([1, 2, 3])):
        count = action.nargs
        if count in ("+", "*"):
            count = rng.choice([1, 2, 3])
        elif count is None:
            count = 1
        values = [value(action, rng) for _ in range(count)]
        if action in positional:
            words[positional.index(action)] = values[0]
        elif count == 1:
            words.append(f"{action.option_strings[-1]}={values[0]}")
        else:
            words += [action.option_strings[-1], *values]
    return [*name.split(), *words]


# ---------------------------------------------------------------- a trial
def start(place, words, file):
    """Run a command in the folder `place`, as a fork of this process; returns its number."""
    if pid := os.fork():
        return pid
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30,) * 2)  # bytes; what a bad number may take
    resource.setrlimit(resource.RLIMIT_NOFILE, (64,) * 2)
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    sys.stdout = open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    environment = {
        **os.environ,
        "HOME": str(place),
        "GCL_WEIGHTS": str(place / "weights"),
        "https_proxy": "http://127.0.0.1:9",  # nothing is downloaded
    }
    os._exit(become([str(ROOT / words[0]), *words[1:]], str(place), environment))


def ended(pid, seconds):
    """The exit code of a process, once it has one; None after so many seconds of its CPU's time."""
    end = time.monotonic() + 20 * seconds  # of one that only waits
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        if sum(map(int, used)) / os.sysconf("SC_CLK_TCK") > seconds:
            break
        time.sleep(0.02)
    return None


def attempt(place, words, seconds):
    """Returns (exit code or None of one that hangs, its output, True if it was stopped)."""
    with tempfile.TemporaryFile() as file:
        pid = start(place, words, file)
        code = ended(pid, seconds)
        stopped = code is None
        if stopped:
            os.kill(pid, signal.SIGTERM)
            code = ended(pid, 2 * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if code is None:
            os.waitpid(pid, 0)
        file.seek(0)
        return code, file.read().decode("utf-8", "surrogateescape"), stopped


def is_large(word):
    """True for a number that explains why a command takes long, such as --epochs=1e38."""
    try:
        return float(word.rpartition("=")[2]) > 50
    except ValueError:
        return False


def fault(code, said, stopped, words):
    """What is wrong with the end of a command: a word; "" if nothing is."""
    if "Traceback" in said:
        return "traceback"
    if code is None or (stopped and not any(map(is_large, words))):
        return "hang"
    if code not in ((1, 2, 143) if stopped else (0, 1, 2)):
        return f"exit code {code}"
    return "" if said.strip() or code == 0 else "no word"


# ---------------------------------------------------------------- all of them
def make(home):
    """The folder that every trial has a copy of."""
    with contextlib.redirect_stdout(io.StringIO()):
        tiny.main(home)
    (home / "imagenet").rename(home / "data")
    for out, name in READ.items():
        words = f"{name} {COMMANDS[name]} --out {out}".split()
        code, said, _ = attempt(home, words, 600)
        if code:
            raise SystemExit(f"{out} cannot be made: {said}")


def copied(home, place):
    """A copy of the little folders, and links to those of weights."""
    place.mkdir(parents=True)
    for folder in home.iterdir():
        if folder.name in ("data", "gen", "runs"):
            shutil.copytree(folder, place / folder.name)
        else:
            (place / folder.name).symlink_to(folder)
    return place


def report(wrong, said, words, again):
    """Print a trial. again: the flags that repeat it."""
    line = shlex.join(words).encode("utf-8", "backslashreplace").decode()
    last = [ascii(text) for text in said.splitlines()[-6:]]
    print("\n    ".join([f"{wrong}: {line}", *last, f"again: {again}"]), flush=True)


def main(args):
    """Print what is wrong; the exit code says whether anything is."""
    exec(HEAVY, {})
    ends = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        make(home)

        def trial(script, flags, number):
            rng = random.Random(f"{args.seed} {script} {number}")
            words = command_line(script, flags, rng)
            top = Path(folder, f"{script[:2]}-{number}")
            place = copied(home, top / "a" / "b")  # ".." leads to nothing of others
            code, said, stopped = attempt(place, words, args.seconds)
            shutil.rmtree(top)
            again = f"--seed {args.seed} --only {script[:2]} --first {number} --trials 1"
            return code, said, stopped, words, again

        for stage in args.only:
            script = next(name.split()[0] for name in COMMANDS if name.startswith(stage))
            flags = actions(script)
            if unknown := flags.keys() - COMMANDS.keys():
                raise SystemExit(f"COMMANDS lacks {', '.join(sorted(unknown))}")
            numbers = range(args.first, args.first + args.trials)
            with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
                done = pool.map(partial(trial, script, flags), numbers)
                for code, said, stopped, words, again in done:
                    ends[f"{'stopped' if stopped else 'exit code'} {code}"] += 1
                    wrong = fault(code, said, stopped, words)
                    faults += bool(wrong)
                    if wrong or args.show:
                        report(wrong or code, said, words, again)
            print(f"{script}: {faults} faults so far", flush=True)
    print(", ".join(f"{end}: {count}" for end, count in sorted(ends.items())))
    print(f"{faults} faults in {ends.total()} command lines")
    return min(faults, 1)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("--trials", type=int, default=100, help="command lines a stage")
    p.add_argument("--first", type=int, default=0, help="number of the first one")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", nargs="+", default=[f"0{i}" for i in range(8)], metavar="03")
    p.add_argument("--seconds", type=float, default=20, help="CPU time of a command")
    p.add_argument("--jobs", type=int, default=2, help="commands at a time")
    p.add_argument("--show", action="store_true", help="also the trials with nothing wrong")
    raise SystemExit(main(p.parse_args()))
