"""The run folder: what a run was started with, its log, its checkpoints, whether it is finished.

The same command starts, continues and finishes a run. A folder belongs to one command with one set
of arguments and inputs; another one is refused. Used by every stage.
"""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from base.cli import from_zero
from base.parallel import everyone, rank, world
from base.run import (
    ROOT,
    fail,
    load,
    lock,
    read_json,
    read_text,
    save,
    warn,
    write_json,
    write_text,
)

RECORD = "unreadable.jsonl"  # one line for each image that could not be read

MAY_CHANGE = {  # on resume
    "out",
    "workers",
    "device",
    "precision",
    "checkpoint_minutes",
    "max_unreadable",
}


def versions():
    """Versions of what a result may depend on."""
    import torch

    describe = ["git", "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git
        revision = ""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # nothing is imported for it
        "numpy": version("numpy"),
        "git": revision,
    }


def write_or_check(path, identity, what, extra=None, finished=False):
    """Write `identity`, a dict, to `path`, or check that what stands there is equal (process 0).

    From then on no other command may write `path`, unless what belongs to it is finished.

    identity: "stage", "args" (the arguments), "inputs" (what was read: hashes, counts).
    what: the phrase for the folder of `path`, which holds nothing else.
    extra: written as well, but not compared.
    """
    path = Path(path)
    identity = json.loads(json.dumps(identity, default=str))
    if not path.exists():
        folder = path.parent
        if folder.exists() and any(file.name[0] != "." for file in folder.iterdir()):
            fail(f"{folder} is not empty and not {what}: choose another --out.", 2)
        lock(path)
        write_json(path, {"folder": os.getcwd(), **(extra or {}), **identity})
        return
    if not finished:
        lock(path)
    check_identity(path, identity)


def check_identity(path, identity):
    """Refuse an identity (see `write_or_check`) unless that of the JSON file `path` is equal.

    Of paths it counts where they lead, not how they are written. Where the inputs hold a hash of
    the list of images, those may have been moved: --data is free, with a warning if the old images
    are still there.
    """
    there = read_json(path)
    old, new = named(there), named(identity)
    folder = there.get("folder", "")
    if new.keys() & {"list of images", "training set"}:
        data = where(new.pop("--data", None))
        before = where(old.get("--data"), folder)
        if data != before and os.path.exists(before):
            warn(f"{path.parent} was started with --data {before}: its images have the same names.")
    changed = []
    for name, value in new.items():
        before = old.get(name)
        if value != before and where(value) != where(before, folder):
            changed.append(f"{name} was {before}, now {value}")
    if changed:
        fail(
            f"{path.parent} was started with other arguments or inputs ({', '.join(changed)}): "
            "repeat the old command to go on, or choose another --out.",
            2,
        )


def named(identity):
    """{name for the user: value} of an identity, as `write_or_check` takes it, or of a flat one."""
    args = identity.get("args", identity)
    flags = {f"--{name.replace('_', '-')}": value for name, value in args.items()}
    return {"stage": identity.get("stage"), **flags, **identity.get("inputs", identity)}


def where(value, folder=""):
    """The file that a path leads to from a folder. Lists are taken apart, other values kept."""
    if isinstance(value, list):
        return [where(path, folder) for path in value]
    return os.path.realpath(os.path.join(folder, value)) if isinstance(value, str) else value


def open_run(args, stage, result, may_change=(), inputs=None, extra=None):
    """Create the run folder args.out, or check that it belongs to the same command.

    stage: the stage's name. result: the file whose presence means that the run is finished.
    may_change: arguments that may differ from those of the interrupted run, beside MAY_CHANGE.
    inputs: what the run reads, in a comparable form (hashes, counts); extra: to be noted, too.
    Returns the folder, or None if the run is finished, after a word to the user.
    """
    out = Path(args.out)
    done = False
    if rank() == 0:
        free = {*MAY_CHANGE, *may_change}
        arguments = {key: value for key, value in vars(args).items() if key not in free}
        identity = {"stage": stage, "args": arguments, "inputs": inputs or {}}
        what = "a run folder"
        write_or_check(out / "args.json", identity, what, extra, (out / result).exists())
        done = (out / result).exists()  # another writer may have ended meanwhile
        if done:
            print(f"{out} is finished: {out / result}")
            (out / "checkpoint.pth").unlink(missing_ok=True)  # it may have been killed just then
        elif not ((out / "checkpoint.pth").exists() and (out / "log.jsonl").exists()):
            first = {"event": "start", "command": sys.argv, "world": world(), "time": time.time()}
            write_text(out / "log.jsonl", json.dumps(first | versions()) + "\n")
            (out / RECORD).unlink(missing_ok=True)
    return None if everyone(done)[0] else out


def run_arguments(folder):
    """{argument: value} of the run in a folder, with what `open_run` noted beside; {} if none."""
    path = Path(folder) / "args.json"
    if not path.exists():
        return {}
    noted = read_json(path)
    return noted | noted.pop("args", {})


def log(out, **event):
    """Append one line to log.jsonl (process 0)."""
    if rank() == 0:
        with open(Path(out) / "log.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")


def read_log(out, event):
    """The logged events of one kind."""
    lines = (Path(out) / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [line for line in events if line.get("event") == event]


def save_checkpoint(out, **state):
    """Everything needed to go on, with the length of the log that belongs to it (process 0)."""
    if rank() == 0:
        state["log_bytes"] = (Path(out) / "log.jsonl").stat().st_size
        save(Path(out) / "checkpoint.pth", state)


def load_checkpoint(out):
    """The last checkpoint, or None; the log is cut back to it."""
    path = Path(out) / "checkpoint.pth"
    if not path.exists():
        return None
    state = load(path)
    log_file = Path(out) / "log.jsonl"
    if rank() == 0 and log_file.stat().st_size > state["log_bytes"]:  # it may have been lost
        os.truncate(log_file, state["log_bytes"])
    return state


def read_record(file):
    """{name of a list: {file: why}} of a run's images that could not be read. file: its record."""
    lists = {}
    if file is None or not Path(file).exists():
        return lists
    for line in read_text(file).splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # half a line, of a process that was killed
            continue
        lists.setdefault(entry["list"], {})[entry["file"]] = entry["reason"]
    return lists


def copy_record(out, other):
    """What the run `out` could not read is what the run `other` cannot."""
    if Path(out, RECORD).exists():
        write_text(Path(other, RECORD), read_text(Path(out, RECORD)))


def unreadable_counts(out):
    """{name of a list: how many of its images could not be read}, of the run folder `out`."""
    return {name: len(files) for name, files in sorted(read_record(Path(out, RECORD)).items())}


def close_run(out):
    """The run is finished: its result stands (process 0).

    The checkpoint is removed. Images that could not be read are counted in the log and on stderr.
    """
    if rank() > 0:
        return
    record = Path(out) / RECORD
    if record.exists():
        lines = sorted(set(read_text(record).splitlines(keepends=True)))
        write_text(record, "".join(lines))
        counts = unreadable_counts(out)
        log(out, event="unreadable", images=counts)
        warn(f"{sum(counts.values())} images could not be read; {record} names them.")
    (Path(out) / "checkpoint.pth").unlink(missing_ok=True)


def checkpoint_argument(p):
    """Add to a parser how often a checkpoint is written (see `training.Clock`)."""
    p.add_argument(
        "--checkpoint-minutes",
        type=from_zero,
        default=10,
        metavar="MINUTES",
        help="time between two checkpoints: the work that a crash may cost; 0: every step",
    )
