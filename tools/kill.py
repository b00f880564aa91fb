"""Runs that are killed at random moments end as if nothing had happened.

    python tools/kill.py                         # 60 trials, about 20 minutes
    python tools/kill.py --first 17 --trials 1   # one of them again

A trial takes a stage of tests/test_every_stage.py and stops it one to three times, with SIGKILL or
SIGTERM, each time at a random moment of its work. Then the same command runs to its end. Tensors,
images, captions, numbers and the log must equal those of an uninterrupted run. After SIGTERM the
exit code must be 143, with a sentence, and a training must have saved what it has done. A trial
depends only on --seed and its number, but for the moments, which are shares of a measured time.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # for a start as a file

import test_every_stage as stages
import torch
from conftest import equal, make_tiny, run, started

SELDOM = ["--checkpoint-minutes", "1000"]  # only SIGTERM writes a checkpoint then


def whole(name, places, folder):
    """(what a stage leaves that nothing disturbs, the seconds that it takes)."""
    begin = time.monotonic()
    run(*stages.command(name, places, folder / "out"))
    return stages.left(name, folder / "out"), time.monotonic() - begin


def last_step(log):
    """The number of the last step in the lines of a log; 0 before it."""
    return max((line.get("step", 0) for line in log), default=0)


def unsaved(out, total):
    """What SIGTERM lost of `total` steps, as no checkpoint holds it: a sentence, or ""."""
    lines = (out / "log.jsonl").read_text().splitlines()
    done = last_step(map(json.loads, lines))
    if done in (0, total):
        return ""
    if not (out / "checkpoint.pth").exists():
        return f"SIGTERM lost {done} steps"
    saved = torch.load(out / "checkpoint.pth", weights_only=True)["step"]
    return "" if saved >= done else f"SIGTERM lost steps {saved} to {done}"


def stop(words, seconds, number, out, total):
    """Start a command and stop it; returns (True if it had ended before that, what is wrong)."""
    with started(*words) as process:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        if process.poll() is not None:
            done = process.wait(1)
            return True, done.stderr[-500:] if done.returncode else ""
        if number == signal.SIGKILL:
            process.kill()
            return False, ""
        done = process.end(60)
    said = done.stdout + done.stderr
    if not said:
        return False, ""  # before its first word
    if done.returncode == 0:
        return True, ""
    if done.returncode != 143 or "Stopped by SIGTERM" not in said or "Traceback" in said:
        return False, f"SIGTERM: exit code {done.returncode}, {said[-500:]}"
    if "--checkpoint-minutes" in words and (out / "log.jsonl").exists():
        return False, unsaved(out, total)
    return False, ""


def trial(rng, name, places, expected, seconds, out):
    """Returns (how often it was stopped, what is wrong)."""
    words = stages.command(name, places, out)
    total = last_step(expected.get("log", []))
    stops = 0
    for _ in range(rng.choice([1, 2, 3])):
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        seldom = SELDOM if number == signal.SIGTERM and "--checkpoint-minutes" in words else []
        moment = rng.uniform(0, seconds)
        ended, wrong = stop([*words, *seldom], moment, number, out, total)
        if wrong:
            return stops, wrong
        if ended:
            break
        stops += 1
    run(*words)
    found = stages.left(name, out)
    names = sorted(found.keys() | expected.keys())
    differ = [name for name in names if not equal(found.get(name), expected.get(name))]
    return stops, f"differs in {', '.join(differ)}" if differ else ""


def main(args):
    """Print what is wrong; the exit code says whether anything is."""
    faults = stops = 0
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        places = stages.make_places(folder / "places", make_tiny(folder / "tiny"))
        places = {name: str(path) for name, path in places.items()}
        undisturbed = {}
        for number in range(args.first, args.first + args.trials):
            rng = random.Random(f"{args.seed} {number}")
            name = args.stages[number % len(args.stages)]
            if name not in undisturbed:
                undisturbed[name] = whole(name, places, folder / f"whole {name}")
            out = folder / f"{number}" / "out"
            count, wrong = trial(rng, name, places, *undisturbed[name], out)
            stops += count
            faults += bool(wrong)
            print(f"{number}, {name}: stopped {count} times, {wrong or 'equal'}", flush=True)
    print(f"{faults} differences in {args.trials} trials, {stops} stops")
    return min(faults, 1)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("--trials", type=int, default=60)
    p.add_argument("--first", type=int, default=0, help="number of the first one")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--stages", nargs="+", default=list(stages.STAGES), choices=list(stages.STAGES))
    raise SystemExit(main(p.parse_args()))
