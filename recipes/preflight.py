"""Look at all that a recipe will need to its end, before it makes anything.

    CHECK=1 DATA=/path/to/imagenet bash recipes/table4_mixing.sh

Every recipe begins with this; CHECK=1 ends it there. Its input is what the recipe prints with
DRY=1. Each command is parsed by its stage's own parser. What its flags read must be there, or an
earlier command must make it. Prints what was looked at and one line for each kind of fault, and
exits with 1 if there is a fault. Nothing is downloaded or written. What only a stage can know, the
stage says itself when it starts.
"""

import contextlib
import functools
import io
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a file

from base import run
from base.weights import cached, model_folder
from images import labelled
from images.files import evenly, find_images
from images.unreadable import why_unreadable
from report.results import DATA_SETS, data_of

READS = (  # flags that name a file or a folder to read
    "data images weights tokenizer captions backbone generated subset_file init steer navigator "
    "mirrors features"
).split()
WORDS = ("real", "random", "inception")  # what they take beside a name
NETWORKS = ("03_pretrain", "train_augmenter")  # their --backbone names a network
LOADS = {  # subcommand: the published files that it needs without --weights
    "vqgan": "vgg16",
    "inpaint": "maskgit-tokenizer maskgit-transformer",
    "outpaint": "maskgit-tokenizer maskgit-transformer",
    "noise": "icgan swav",
    "steer": "icgan swav",
    "navigator": "icgan swav",
    "cost": "inception",
}
ABSENT = "missing or empty; bash recipes/weights.sh fetches it"
KINDS = {  # a flag: what is said where it names nothing
    "subset_file": ABSENT,
    "data": "not there; DATA=FOLDER names another, PLACES=, VOC= or COCO= those of the transfer",
}
LOOKED_AT = 16  # images of a split that are read
PUBLISHED_SIDE = 256  # pixels of an image of the published generators
BYTES_PER_PIXEL = 0.6  # of a JPEG of quality 95 without chroma subsampling
IMAGES = {1: 200, 2: 128, 3: 96}  # generated views: images a card, of four, by default
MEMORY = {  # docs/costs.md: GiB of a step, without and with --grad-checkpoint
    "vicreg resnet50": (18.9, 8.3),
    "barlow resnet50": (18.9, 8.3),
    "simclr resnet50": (17.2, 9.8),
    "byol resnet50": (18.1, 6.9),
    "swav resnet50": (17.1, 9.8),
    "dino resnet50": (29.1, 10.3),
    "dino vit_small_patch16": (22.2, 5.2),
}
STATE = 2.6  # GiB of these that do not depend on the number of images, at most
WORKSPACE = 1.5  # GiB that CUDA and its libraries take beside them

# ---------------------------------------------------------------- what the commands so far told
made = {}  # what a command makes: the side of its images in pixels, or None
sources = {}  # a folder of links or copies that a command makes: (its source, classes kept)
images = {}  # a folder: how many images it has
mirrors = []  # (folder of originals, views, side in pixels, folder of the mirror)
steps = []  # arguments of a pretraining
batches = []  # (folder of images, the --batch-size of a training on them)
faults = defaultdict(dict)  # a kind of fault: what has it, in order, each once


@functools.cache
def answer(function, *args):
    """function(*args), called once; None after its sentence has become a fault."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return function(*args)
    except (SystemExit, OSError) as error:
        fault(last_line(said.getvalue()) or str(error))
        return None


def last_line(text):
    """What a command has said at its end."""
    return text.strip().rpartition("\n")[2]


def fault(kind, *names):
    """Note a fault, and the files, folders, ... that have it."""
    faults[kind] |= dict.fromkeys(map(str, names))


def is_whole(path):
    """Whether it is a folder, or a file that is not empty."""
    return os.path.isdir(path) or os.path.isfile(path) and os.path.getsize(path) > 0


def is_made(path):
    """Whether an earlier command makes it, or a folder that it lies in."""
    path = Path(os.path.normpath(path))
    return any(str(folder) in made for folder in (path, *path.parents))


def batch_of(args):
    """The images of a step, over all processes."""
    return args.batch_size or 4 * IMAGES[args.views]


# ---------------------------------------------------------------- one command
@functools.cache
def parser(script):
    """`arguments` of a script, without the heavy imports below it; None if it has none."""
    top, _, rest = Path(script).read_text().partition('if __name__ == "__main__":\n    args = ')
    if not rest:
        return None
    names = {"__file__": script, "__name__": script}
    exec(compile(top, script, "exec"), names)
    return names["arguments"]


def look(words):
    """What one command reads and makes."""
    if "recipes/imagenet100.sh" in words:  # env DATA=FOLDER bash recipes/imagenet100.sh OUT
        made[words[-1]] = None
        sources[words[-1]] = words[1].removeprefix("DATA="), 100
        check = os.environ | {"CHECK": "1"}
        done = subprocess.run(words, env=check, capture_output=True, text=True)
        if done.returncode:
            fault(last_line(done.stderr))
    elif words[0].endswith(".py") and parser(words[0]):
        sys.argv[0] = words[0]  # argparse's sentence begins with it
        if args := answer(parser(words[0]), tuple(words[1:])):
            follow(Path(words[0]).stem, words[1], args)
    elif "--out" in words:
        made[words[words.index("--out") + 1]] = None


def follow(stage, subcommand, args):
    """What a parsed command reads and makes."""
    flags = vars(args)
    for flag in READS:
        if flag == "backbone" and stage in NETWORKS:
            continue
        values = flags.get(flag)
        for path in values if isinstance(values, list) else [values]:
            named = isinstance(path, str) and path not in WORDS
            if named and not is_whole(path) and not is_made(path):
                kind = KINDS.get(flag, "not there, or an empty file")
                fault(kind, f"{path} (--{flag.replace('_', '-')})")
    loads(subcommand, flags)
    if stage[:2] in ("00", "03", "04", "05") and not flags.get("cache_features"):
        folder = args.data
        if "eval_on" in flags:
            folder = os.path.join(folder, "train")
        batches.append((folder.rstrip("/"), batch_of(args)))
    if subcommand == "resize":
        sources[args.out] = args.data, math.inf
    if "eval_on" in flags:
        read_classes(args.data, args.eval_on)
    if stage == "06_transfer" and os.path.exists(args.data):
        if data := answer(labelled.SETS[args.dataset].read, args.data):
            images[f"{args.data} ({args.dataset})"] = len(data.train.files) + len(data.val.files)
    side = flags.get("size") or made.get(flags.get("tokenizer"))
    if stage == "02_augment":
        side = made.get(flags.get("weights")) or flags.get("store_size") or side or PUBLISHED_SIDE
        mirrors.append((args.data, views_of(args), side, args.out))
    if stage == "03_pretrain" and f"{args.method} {args.backbone}" in MEMORY:
        steps.append(args)
    if flags.get("out"):
        made[os.path.normpath(args.out)] = side


def loads(subcommand, flags):
    """The published weights, and the models of transformers and diffusers."""
    model = flags.get("model")
    if model and subcommand not in ("vqgan", "maskgit") and not is_made(model):
        marker = "model_index.json" if subcommand == "diffusion" else "config.json"
        folder = answer(model_folder, model, marker, f"a folder with {marker}", in_cache)
        fault_of_absent(Path(folder or "/absent").glob("*/*.safetensors"))
    if flags.get("weights") or flags.get("perceptual_weight") == 0:
        return
    if flags.get("features", "inception") == "inception":
        fault_of_absent(map(cached, LOADS.get(subcommand, "").split()))


def fault_of_absent(files):
    """Those of some weight files that are missing or empty."""
    for file in files:
        if not is_whole(file):
            fault(ABSENT, file)


def in_cache(name):
    """The folder of a hub id whose files are in the hub's cache; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        fault(ABSENT, f"{name} (in the hub's cache)")
        return ""


def read_classes(root, val):
    """Look at ROOT/train and ROOT/VAL as the stages do, or at what a command makes them from."""
    source, kept = sources.get(root, (root, math.inf))
    if not os.path.exists(source) or root not in sources and is_made(root):
        return
    data = answer(labelled.read_splits, source, val)
    if data is None:
        return
    classes = data.classes
    about = data_of(tuple(classes), len(data.train.files), source)
    lacks = [about.lacks] * bool(about.lacks)
    whole = DATA_SETS.get(about.study, {}).get("val", 0)
    if len(data.val.files) < whole:
        lacks.append(f"{len(data.val.files):,} of {whole:,} images in {val}")
    if lacks and not os.environ.get("PART") and not os.environ.get("TINY"):
        kind = "a part of the data set; PART=1 goes on with it"
        fault(kind, f"{source} ({', '.join(lacks)})")
    share = min(1, kept / len(classes))
    for name, files in (("train", data.train.files), (val, data.val.files)):
        images[os.path.join(root, name)] = int(len(files) * share)
        answer(look_at, os.path.join(source, name), tuple(evenly(files, LOOKED_AT)))


def look_at(folder, files):
    """Whether so many of some images can be read that they will not be too many."""
    bad = [file for file in files if why_unreadable(file)]
    if len(bad) > 1:
        kind = "images cannot be read; python 07_metrics.py check FOLDER names all such images"
        fault(kind, f"{folder} ({len(bad)} of {len(files)})")


# ---------------------------------------------------------------- disk and memory
def views_of(args):
    """How many views of an image a command of 02_augment.py stores."""
    if args.strategy == "outpaint":
        return 9 if "all" in args.positions else len(args.positions)
    return len(getattr(args, "strength", [])) or getattr(args, "views", 1)


def gigabytes_of(files, side):
    """Disk for so many generated images of side x side pixels."""
    return files * side**2 * BYTES_PER_PIXEL / 1e9


def disk():
    """Whether the mirrors that are still to be made fit the disk, which they share."""
    needed = 0
    for data, views, side, out in mirrors:
        if data not in images and os.path.exists(data):
            found = answer(find_images, data) or ()
            images[data] = len(found)
        there = sum(len(files) for _, _, files in os.walk(out))
        left = images.get(data, 0) * views - there
        needed += gigabytes_of(max(0, left), side)
    if not mirrors:
        return
    folder = next(path for path in Path(out).absolute().parents if path.exists())
    free = float(os.environ.get("GCL_FREE_GB") or shutil.disk_usage(folder).free / 1e9)
    numbers = f"{needed:,.1f} GB of mirrors (an estimate), {free:,.1f} GB are free"
    print(f"disk    {folder}: {numbers}")
    if needed > free:
        fault(f"too small for what is to be made: {numbers}. GEN and RUNS name others", folder)


def memory():
    """What PRETRAIN must hold if the cards are fewer or smaller than the settings ask for."""
    total = card()
    if total is None:
        fault("No GPU is visible, and this takes four of them days. With DEVICE=cpu it begins")
        return
    more = note = ""
    fitting = set()
    cards = max(1, int(os.environ.get("GPUS", 1)))
    for args in steps:
        batch = batch_of(args)
        each = batch // cards
        step = IMAGES[args.views] * (224 / args.size) ** 2
        needed = MEMORY[f"{args.method} {args.backbone}"]
        plain, less = [most(total, gib) * step for gib in needed]
        if plain < each and not args.grad_checkpoint:
            more = " --grad-checkpoint"
        each = min(each, int(less if more or args.grad_checkpoint else plain))
        if each * cards < batch:
            fitting.add(each * cards)
    if fitting:
        more += f" --batch-size {min(fitting)}"
        note = ". This batch is not that of the dissertation: compare such arms alone"
    if more:
        flags = (os.environ.get("PRETRAIN", "") + more).strip()
        these = f"{cards} x {total:.1f} GiB"
        fault(f'A pretraining does not fit these cards ({these}). Use PRETRAIN="{flags}"{note}')


def card():
    """GiB of a GPU, or $GCL_GPU_GIB; None where no GPU is visible."""
    import torch

    if pretended := os.environ.get("GCL_GPU_GIB"):
        return float(pretended)
    if not torch.cuda.is_available():
        return None
    _, total = torch.cuda.mem_get_info()
    return total / 2**30


def most(total, needed):
    """The share of a step of `needed` GiB that fits a card of `total` GiB; 2 is twice a step.

    What a step needs is the largest of several straight lines over the number of images. So it lies
    below the line through STATE up to the whole step, and below the line through 0 beyond it.
    """
    left = total - WORKSPACE
    if left > needed:
        return left / needed
    return max(0, (left - STATE) / (needed - STATE))


# ---------------------------------------------------------------- all
def main(lines):
    for line in lines:
        if line.startswith("$ "):
            words = shlex.split(line[2:])
            scripts = [word for word in words if word.endswith(".py")] or words
            look(words[words.index(scripts[0]) :])  # without python or torchrun
    disk()
    if steps and os.environ.get("DEVICE") != "cpu":
        memory()
    for folder, number in batches:
        if number > images.get(folder, number):
            kind = "fewer images than a step takes; a smaller --batch-size is needed"
            fault(kind, f"{folder} ({images[folder]:,}, --batch-size {number})")
    for folder, number in images.items():
        print(f"images  {folder}: {number:,}")
    for kind, of_kind in faults.items():
        names = list(of_kind)
        if len(names) > 5:
            names[5:] = [f"and {len(names) - 5} more"]
        if names:
            kind = f"{', '.join(names)}: {kind}"
        print("FAULT  ", kind)
    if faults:
        run.fail(f"This recipe would fail: see the {len(faults)} FAULTs above. Nothing was made.")


if __name__ == "__main__":
    if sys.stdin.isatty() or len(sys.argv) > 1:
        raise SystemExit(__doc__)
    main(sys.stdin.read().splitlines())
