"""What every stage's run needs: arguments, processes, the run folder, seeds.

Randomness has one rule here: whatever is random about an image, a batch or a step is a function of
(seed, its names), never of a global state. Resuming, other batch mates, more workers and more
processes then change nothing, and there is no random state to save.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = (
    "generator.pth",
    "backbone.pth",
    "result.json",
    "model_index.json",
)  # a finished run has one of them
FREE = ("workers", "device", "precision", "checkpoint_minutes")  # may change when a run is resumed


# ---------------------------------------------------------------- arguments and errors
class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        shown = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return shown
        default = (
            " ".join(map(str, action.default))
            if isinstance(action.default, (list, tuple))
            else "%(default)s"
        )
        return f"{shown} (default: {default})"


def parser(doc, **kwargs):
    """An argparse parser in the style of the house: the script's docstring is its manual."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=_Help, allow_abbrev=False, **kwargs
    )


def subparser(commands, name, doc):
    """The same for a subcommand; `commands` is what `parser.add_subparsers` returned."""
    first = doc.strip().splitlines()[0]
    return commands.add_parser(
        name, help=first, description=doc, formatter_class=_Help, allow_abbrev=False
    )


def share(text):
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def count(text):
    """argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def device_arguments(p, workers=8):
    p.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cuda", "cpu"],
        help="auto: a GPU if there is one",
    )
    p.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "bf16", "fp32"],
        help="of the networks; auto: bf16 autocast where the hardware computes in it, else fp32",
    )
    p.add_argument(
        "--workers",
        type=int,
        default=workers,
        metavar="N",
        help="processes that read images, per GPU; 0: none, everything in the main process",
    )


def fail(message, code=1):
    """End the run with one sentence on stderr; exit code 2 for wrong usage, 1 for everything else."""
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(code)


def run_main(main, args):
    """Run a stage: what can go wrong outside our own checks also ends in one sentence."""
    try:
        main(args)
    except KeyboardInterrupt:
        fail("Interrupted. The same command continues where this one stopped.", 130)
    except OSError as error:  # a corrupt image (named by the reader), a full disk, a missing file
        fail(
            f"Stopped: {str(error).strip().splitlines()[-1]}. Nothing finished is lost: the same command continues."
        )


# ---------------------------------------------------------------- processes and devices
def rank():
    return int(os.environ.get("RANK", 0))


def world():
    return int(os.environ.get("WORLD_SIZE", 1))


def start(args):
    """Join the other processes if torchrun started us; return this process's torch.device."""
    import torch

    cuda = torch.cuda.is_available()
    if args.device == "cuda" and not cuda:
        fail("--device cuda: no GPU is visible; use --device cpu or check the driver.", 2)
    device = torch.device("cpu")
    if cuda and args.device != "cpu":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if world() > 1:
        if (
            sys.platform == "linux"
        ):  # die with torchrun: a process left behind would go on writing to the run
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def barrier():
    if world() > 1:
        import torch

        torch.distributed.barrier()


def autocast(device, precision="auto"):
    """bf16 autocast where the hardware computes in bf16 (no loss scaling needed), else nothing."""
    import torch

    if precision == "auto":
        if device.type == "cuda":
            precision = (
                "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
            )
        else:  # without these instructions a CPU emulates bf16, some hundred times slower than float32
            precision = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def progress(total, what, done=0):
    """A progress bar with ETA on process 0."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc=what, initial=done, disable=rank() > 0, dynamic_ncols=True, smoothing=0.1
    )


# ---------------------------------------------------------------- seeds and order
def _digest(size, *names):
    return hashlib.blake2b(repr(names).encode(), digest_size=size).digest()


def image_seed(seed, *names):
    """A 63-bit seed for everything random about one thing, such as (seed, path, view)."""
    return int.from_bytes(_digest(8, seed, *names), "big") >> 1


class _Seed(np.random.bit_generator.ISeedSequence):
    """Seeds a bit generator with a digest as it is: numpy's own mixing costs four times as much as all else."""

    def __init__(self, digest):
        self.digest = digest

    def generate_state(self, n_words, dtype=np.uint32):
        return np.frombuffer(self.digest, dtype, n_words)


def seed_rng(seed, *names):
    """A numpy Generator for everything random about one thing."""
    return np.random.Generator(np.random.PCG64(_Seed(_digest(32, seed, *names))))


def batches(n, batch_size, seed, first, last):
    """For each step from `first` to `last` - 1: this process's share of the global batch, as
    (epoch, index) pairs. Each epoch is a new permutation of the n images; its incomplete last batch
    is dropped. As a DataLoader's batch_sampler this is the whole training in one pass: the workers
    never stop between epochs, and a resumed run starts in the middle of one."""
    share_, order, shuffled = batch_size // world(), None, -1
    for step in range(first, last):
        epoch, batch = divmod(step, n // batch_size)
        if epoch != shuffled:
            order, shuffled = seed_rng(seed, "order", epoch).permutation(n), epoch
        begin = batch * batch_size + rank() * share_
        yield [(epoch, int(i)) for i in order[begin : begin + share_]]


def check_batch(n, batch_size):
    """`batch_size` is global: it must be divisible by the processes and not exceed the images."""
    if batch_size % world():
        fail(
            f"--batch-size {batch_size} is the global one: it must be a multiple of the {world()} processes.",
            2,
        )
    if batch_size > n:
        fail(
            f"--batch-size {batch_size} is more than the {n} images there are: choose a smaller one.",
            2,
        )


# ---------------------------------------------------------------- files
@contextlib.contextmanager
def atomic(path):
    """Yield a temporary name beside `path`; what was written there is moved to `path` at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f".{path.name}.tmp{path.suffix}"
    )  # one name: a killed write leaves no second file
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, obj):
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=1, sort_keys=True) + "\n")


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        fail(f"{path} does not exist.")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        fail(f"{path} is not valid JSON ({error}).")


def save(path, obj):
    """torch.save, atomically."""
    import torch

    with atomic(path) as temporary:
        torch.save(obj, temporary)


def load(path):
    """Tensors and plain values from a .pth file; nothing in it is executed."""
    import pickle
    import zipfile

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        fail(f"{path} does not exist.")
    except pickle.UnpicklingError:
        fail(
            f"{path} holds more than tensors and plain values (code would have to run to read it): refused."
        )
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        fail(f"{path} is not a torch weight file, or it is damaged ({str(error).splitlines()[0]}).")


def file_hash(path):
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- the run folder
def versions():
    import torch
    import torchvision

    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = ""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "git": revision,
    }


def claim(path, identity, what, extra=None):
    """Write `identity` (a dict) to `path`, or check that what stands there is equal (process 0).

    A folder belongs to one set of arguments: another one is refused, and so is a folder that holds other
    things. `extra` is written along but not compared."""
    path, identity = Path(path), json.loads(json.dumps(identity, default=str))
    if path.exists():
        there = read_json(path)
        if there.get("stage") != identity["stage"]:
            fail(
                f"{path.parent} is {there.get('stage')}'s, not {identity['stage']}'s: choose another --out.",
                2,
            )
        there, identity = there | there.get("args", {}), identity | identity.get("args", {})
        changed = [
            f"--{key.replace('_', '-')} was {there.get(key)}, now {identity.get(key)}"
            for key in sorted(identity.keys() - {"args"})
            if there.get(key) != identity.get(key)
        ]
        if changed:
            fail(
                f"{path.parent} was started with other arguments ({', '.join(changed)}): repeat them to go on, or "
                "choose another --out.",
                2,
            )
    elif path.parent.exists() and any(not p.name.startswith(".") for p in path.parent.iterdir()):
        fail(f"{path.parent} is not empty and not {what}: choose another --out.", 2)
    else:
        write_json(path, {**identity, **(extra or {})})


def open_run(out, stage, args, free=(), extra=None):
    """Create the run folder, or check that it belongs to the same command (see `claim`).

    Writes `args.json` (with `extra`, which describes the inputs) and the first line of `log.jsonl`."""
    out, free = Path(out), {*FREE, *free, "out"}
    if rank() == 0:
        identity = {
            "stage": stage,
            **{key: value for key, value in vars(args).items() if key not in free},
        }
        claim(out / "args.json", identity, "a run folder", extra)
        if not any((out / name).exists() for name in ("checkpoint.pth", *RESULTS)):
            first = {
                "event": "start",
                "command": sys.argv,
                "world": world(),
                "time": time.time(),
                **versions(),
            }
            with atomic(out / "log.jsonl") as temporary:
                temporary.write_text(json.dumps(first) + "\n")
    barrier()
    return out


def finished(result, stage, args, free=()):
    """True, with a word to the user, when an earlier run of this command has ended."""
    done = (Path(args.out) / result).exists()
    if done:
        open_run(args.out, stage, args, free)  # refuses other arguments
        if rank() == 0:
            print(f"{args.out} is finished: {Path(args.out) / result}")
    return done


def log(out, **event):
    """Append one line to log.jsonl (process 0)."""
    if rank() == 0:
        with open(Path(out) / "log.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")


def read_log(out, event):
    """The logged events of one kind."""
    lines = map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == event]


def save_checkpoint(out, **state):
    """Everything needed to go on, with the length of the log that belongs to it (process 0 writes)."""
    if rank() == 0:
        save(
            Path(out) / "checkpoint.pth",
            {**state, "log_bytes": (Path(out) / "log.jsonl").stat().st_size},
        )


def load_checkpoint(out):
    """The last checkpoint, or None; the log is cut back to it."""
    path = Path(out) / "checkpoint.pth"
    if not path.exists():
        return None
    state = load(path)
    if rank() == 0:
        os.truncate(Path(out) / "log.jsonl", state["log_bytes"])
    barrier()
    return state
