"""What every stage stands on: errors as sentences, devices, seeds, files.

Randomness has one rule. Whatever is random about an image, a batch or a step is a function of a
seed and of its names (a path, an epoch, a view), never of a global state. So resuming, other images
in the batch, more workers and more processes change nothing, and no random state needs saving.

Used by every stage.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

from base import parallel
from base.parallel import rank, world

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- errors
def fail(message, code=1):
    """End the run with one sentence on stderr. Exit code 2 means wrong usage, 1 everything else."""
    print(message.replace("\n", "\\n"), file=sys.stderr, flush=True)
    raise SystemExit(code)


def warn(message):
    """One line on stderr, from process 0."""
    if rank() == 0:
        print(f"warning: {message}", file=sys.stderr, flush=True)


class Interrupt(KeyboardInterrupt):
    """SIGINT or SIGTERM; its only argument is the signal's number."""


def _interrupt(number, frame):
    raise Interrupt(number)


def launch(main, args):
    """Run a stage: join the other processes, call main(args, device), say failures in sentences."""
    if sys.getfilesystemencoding() != "utf-8":
        fail("File names are not read as UTF-8 here: set PYTHONUTF8=1.", 2)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a service may start a stage with closed streams
            setattr(sys, name, open(os.devnull, "w"))
    sys.stdout.reconfigure(errors="backslashreplace")  # names that are not UTF-8 can be printed
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.signal(number, _interrupt)
    try:
        main(args, start(args))
        parallel.leave()
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        fail(
            f"Stopped by {signal.Signals(number).name}. The same command continues where this one "
            "stopped.",
            128 + number,
        )
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        sys.unraisablehook = lambda _: None  # half-made DataLoaders would complain at their end
        fail(sentence)
    finally:
        release_locks()
        for number, handler in handlers.items():
            signal.signal(number, handler)


ADVICE = (  # (words of errors of torch, Python and the system: a pattern; what a user can do)
    (
        # Without /dev/shm there are no semaphores: such an error names no file.
        r"shared memory|\(shm\)|/dev/shm|[Bb]us error|^\[Errno (2|13|30|38)\] [^:]+$",
        "Shared memory (/dev/shm) is full or missing: the processes that read images use it. Run "
        "with --workers 0, or enlarge it (docker run --ipc=host or --shm-size=16g). The last "
        "checkpoint is kept.",
    ),
    (
        "Too many open files|items of ancdata",
        "Raise the limit with `ulimit -n 65536`, or lower --workers. The last checkpoint is kept.",
    ),
    (
        "No space left|quota exceeded|enforce fail.*unexpected pos",  # the last is torch.save's
        "Free some space: the same command continues, nothing is lost.",
    ),
    (
        "an(no|')t allocate memory|not enough memory|DataLoader.*killed by signal|MemoryError|"
        "Unable to allocate|size calculation overflowed",
        "The computer's memory is full. Lower --batch-size, --workers or --size. The last "
        "checkpoint is kept.",
    ),
    (
        "out of memory|ALLOC_FAILED",  # CUDA's, cuDNN's, cuBLAS's
        "The GPU's memory is full. Lower --batch-size, or use more GPUs with torchrun; "
        "03_pretrain.py also has --grad-checkpoint. The last checkpoint is kept.",
    ),
    (
        "home directory",  # a container's user may have none
        "Set HOME to a folder, or GCL_WEIGHTS to the one that holds the weights.",
    ),
    (
        "Connection closed by peer|Connection reset by peer|Timed out waiting|NCCL",
        "This process lost its connection to another process of this run, which has ended or "
        "hangs: look for its message above. The last checkpoint is kept: the same command "
        "continues.",
    ),
)


def sentence_of(error):
    """What a user can do about an error from outside; None for another kind of them."""
    text = str(error).strip() or type(error).__name__
    for words, advice in ADVICE:
        if line := re.search(f".*({words}).*", text):
            return f"Stopped: {line[0][:200]}. {advice}"
    if isinstance(error, OSError):
        return f"Stopped: {text.splitlines()[-1]}."
    return None


# ---------------------------------------------------------------- devices
def start(args):
    """Join the other processes if torchrun started us; return this process's torch.device."""
    import torch

    wanted = getattr(args, "device", "cpu")
    gpus = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cuda" and not gpus:
        fail("--device cuda: no GPU is visible; use --device cpu or check the driver.", 2)
    device, shared_gpu = torch.device("cpu"), False
    if gpus:
        shared_gpu = parallel.local_world() > gpus
        if shared_gpu and not os.environ.get(parallel.SHARE_GPU):
            fail(
                f"torchrun started {parallel.local_world()} processes, and {gpus} GPUs are "
                f"visible: use --nproc_per_node={gpus}.",
                2,
            )
        device = torch.device("cuda", parallel.local_rank() % gpus)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        # "fp32" is to mean float32: without this, convolutions on Ampere and later use TF32.
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        if size := os.environ.get("GCL_GPU_GIB"):  # a larger GPU behaves like one of this size
            total = torch.cuda.get_device_properties(device).total_memory / 2**30
            torch.cuda.set_per_process_memory_fraction(min(1.0, float(size) / total), device)
    parallel.join(device, shared_gpu)
    return device


def autocast(device, precision="auto"):
    """bf16 autocast where the hardware computes in bf16 (no loss scaling needed), else nothing."""
    import torch

    if precision == "auto":
        if device.type == "cuda":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            # Without these instructions a CPU emulates bf16, some hundred times slower than
            # float32.
            able = torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if able else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def progress(total, what, done=0):
    """A progress bar with the time that is left, on process 0."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc=what, initial=done, disable=rank() > 0, dynamic_ncols=True, smoothing=0.1
    )


# ---------------------------------------------------------------- seeds and order
def _digest(size, *names):
    text = repr(names).encode()  # names that are not UTF-8 stand there as escapes
    return hashlib.blake2b(text, digest_size=size).digest()


def image_seed(seed, *names):
    """A 63-bit seed for everything random about one thing, such as (seed, path, view)."""
    return int.from_bytes(_digest(8, seed, *names), "big") >> 1


class _Seed(np.random.bit_generator.ISeedSequence):
    """Hands a digest to a bit generator as it is. (numpy's own mixing is four times slower.)"""

    def __init__(self, digest):
        self.digest = digest

    def generate_state(self, n_words, dtype=np.uint32):
        return np.frombuffer(self.digest, dtype, n_words)


def seed_rng(seed, *names):
    """A numpy Generator for everything random about one thing."""
    return np.random.Generator(np.random.PCG64(_Seed(_digest(32, seed, *names))))


def batches(n, batch_size, seed, first, last):
    """For each step from `first` to `last` - 1: this process's share of the global batch.

    A share is a list of (epoch, index). Each epoch is a new permutation of the n images, and its
    incomplete last batch is dropped. One such generator feeds a DataLoader for the whole training:
    the workers never stop between epochs, and a resumed run starts in the middle of one.
    """
    each = batch_size // world()
    steps_per_epoch = n // batch_size
    shuffled = None
    for step in range(first, last):
        epoch, batch = divmod(step, steps_per_epoch)
        if epoch != shuffled:
            order = seed_rng(seed, "order", epoch).permutation(n)
            shuffled = epoch
        begin = batch * batch_size + rank() * each
        yield [(epoch, int(index)) for index in order[begin : begin + each]]


def check_batch(n, batch_size, least=1):
    """Check the global batch size: a multiple of the processes, not above the n images.

    `least`: the fewest images that a process can work with.
    """
    each, rest = divmod(batch_size, world())
    if rest:
        fail(
            f"--batch-size {batch_size} counts the images of all processes: it must be a multiple "
            f"of the {world()} processes.",
            2,
        )
    if batch_size > n:
        fail(
            f"--batch-size {batch_size} is more than the {n} images there are: choose a smaller "
            "one.",
            2,
        )
    if each < least:
        fail(
            f"--batch-size {batch_size} leaves fewer than {least} images to a process: BatchNorm "
            f"and the loss need at least {least}, so use {least * world()} or more.",
            2,
        )


# ---------------------------------------------------------------- one writer
_locks = []  # open files: a lock goes with its process, however that ends


def lock(path):
    """Hold the lock of a file that only one command may write, until this process ends.

    Another writer is named in one sentence. The lock is a hidden file beside `path` that says who
    holds it. Disks that two machines share hand locks on. The processes of one command are one
    writer, its process 0.
    """
    if rank():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path.with_name(f".{path.name}.lock"), "a+")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        fail(f"{path} is being written by {file.read()}: wait for its end, or change --out.")
    except OSError:
        return  # the folder cannot be written: whoever tries will say so; or a disk has no locks
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()} (since {time.ctime()})")
    file.flush()
    _locks.append(file)


def release_locks():
    """Let go of all locks: this process writes no more."""
    while _locks:
        file = _locks.pop()
        file.truncate(0)
        file.close()


# ---------------------------------------------------------------- files
@contextlib.contextmanager
def atomic(path):
    """Yield a temporary name beside `path`; what was written there is moved to `path` at the end.

    The temporary name is hidden, short, and always the same for one path: a long name still fits
    the file system, and a write that was killed leaves no second file behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{names_hash([path.name])}.tmp{path.suffix[:16]}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """A text file in UTF-8, atomically. Names that are not UTF-8 keep their bytes."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8", "surrogateescape")


def read_text(path):
    """The text of a file that a person may have edited: UTF-8, with or without a byte-order
    mark.
    """
    try:
        return Path(path).read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        fail(f"{path} cannot be read ({error.strerror}).")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path):
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        fail(f"{path} is not valid JSON ({error}).")


def save(path, value):
    """torch.save, atomically."""
    import torch

    # Through a file of Python's a full disk is an OSError; torch's own writer has no such error.
    with atomic(path) as temporary, open(temporary, "wb") as file:
        stop = parallel.Stop()  # torch would take an interrupt here for a full disk
        try:
            torch.save(value, file)
        finally:
            stop.end()
    if stop.number:
        signal.raise_signal(stop.number)


def load(path):
    """Tensors and plain values from a .pth file; nothing in it is executed."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        fail(f"{path} cannot be read ({error.strerror}).")
    except Exception as error:  # a damaged file shows as one of many classes of errors
        fail(
            f"{path} was refused ({type(error).__name__}): it is not a torch weight file, it is "
            "damaged, or it holds more than tensors and plain values, so that reading it would run "
            "code."
        )


def file_hash(path):
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_hash(names):
    """A short digest of a list of names, in hexadecimal: two lists of images can be compared."""
    text = "\n".join(names)
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()


def keep_apart(data, **others):
    """Refuse folders that lie in each other: a later stage would take one's output for images.

    others: {name of the flag: folder}, such as out="runs/x".
    """
    inside = Path(data).resolve()
    for flag, folder in others.items():
        folder = Path(folder).resolve()
        if inside in (folder, *folder.parents) or folder in inside.parents:
            fail(
                f"--{flag} {folder} lies inside --data {inside}, or around it: a later stage would "
                "take its files for images. Choose a folder outside.",
                2,
            )
