"""Look at all that a recipe will need to its end, before it makes anything.

    CHECK=1 DATA=/path/to/imagenet bash recipes/table4_mixing.sh

Every recipe begins with this; CHECK=1 ends it there. Its input is what the recipe prints with
DRY=1. Each command is parsed by its stage's own parser, and followed: what it reads must be there,
or an earlier command must make it. Prints one list of what was found and of all faults, and exits
with 1 if there is a fault. Nothing is downloaded or written.
"""

import contextlib
import copy
import functools
import importlib
import importlib.util
import io
import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a file: make `models` importable

import estimates
import torch

from augment.registry import STRATEGIES
from base import hub, run, run_folder, weights
from images import labelled, matching
from images.files import class_of, find_images
from models import memory

STAGES = {path.stem for path in ROOT.glob("0?_*.py")}
PUBLISHED_SIDE = 256  # pixels of an image of the published generators
FREE = "GCL_FREE_GB"  # makes every disk look as if so much were free: a test


class Seen:
    """What was found so far.

    lines: of the list; a dict keeps their order and each once. faults: the number of those that
    are faults. made: {file or folder that a command makes: what is known of it}.
    folders: {folder of images: their paths}. share: {folder: of them that may be unreadable}.
    needs: [(folder, gigabytes that it will take)]. known: {question: its answer}.
    """

    def __init__(self):
        self.lines = {}
        self.faults = 0
        self.made = {}
        self.folders = {}
        self.share = {}
        self.needs = []
        self.known = {}

    def say(self, kind, text):
        line = f"{kind:<8}{text}"
        if line not in self.lines:
            self.lines[line] = kind
            self.faults += kind == "FAULT"

    def ask(self, function, *args):
        """`answer`, which is asked once for all commands."""
        key = (function, *args)
        if key not in self.known:
            self.known[key] = self.answer(function, args)
        return self.known[key]

    def answer(self, function, args):
        """function(*args); None after its sentence has been added to the faults."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return function(*args)
        except SystemExit:
            self.say("FAULT", said.getvalue().strip().splitlines()[-1])
        except OSError as error:
            self.say("FAULT", str(error))

    def makes(self, path, known=None):
        self.made[os.path.normpath(path)] = known

    def will_be_made(self, path):
        """Whether an earlier command makes it, or a folder that it lies in."""
        path = Path(os.path.normpath(path))
        return any(str(place) in self.made for place in (path, *path.parents))

    def must_exist(self, path, what):
        if path and not Path(path).exists() and not self.will_be_made(path):
            self.say("FAULT", f"{path} does not exist ({what}).")


# ---------------------------------------------------------------- commands
def commands(lines):
    """[(words, number of processes)] of the printed commands, without python and torchrun."""
    found = []
    for line in lines:
        if not line.startswith("$ "):
            continue
        words = shlex.split(line[2:])
        processes = 1
        if words[0] == "torchrun":
            options = [word for word in words if word.startswith("--nproc_per_node=")]
            processes = int(options[0].partition("=")[2])
        if words[0] in ("torchrun", "python"):
            words = words[1:]
            while words[0].startswith("--"):
                words = words[1:]
        found.append((words, processes))
    return found


def look(words, processes, seen):
    """What one command needs and makes."""
    script = Path(words[0])
    if script.stem in STAGES and script.suffix == ".py":
        args = seen.answer(importlib.import_module(script.stem).arguments, [words[1:]])
        if args:
            os.environ["WORLD_SIZE"] = str(processes)  # batches and memory are those of so many
            LOOK[script.stem](args, seen)
            os.environ["WORLD_SIZE"] = "1"
    elif words[:1] == ["env"] and "recipes/imagenet100.sh" in words:
        hundred_classes(words[1].removeprefix("DATA="), words[-1], seen)
    elif "--out" in words:  # the scripts of recipes/ and extras/
        flag = "--images" if script.name == "cifar10.py" else "--data"
        if flag in words:
            seen.must_exist(words[words.index(flag) + 1], flag)
        seen.makes(words[words.index("--out") + 1])


# ---------------------------------------------------------------- images
def images(folder, args, seen):
    """The paths of a folder tree of images; None where there are none yet."""
    if seen.will_be_made(folder):
        return seen.made.get(os.path.normpath(folder))
    paths = seen.ask(find_images, folder)
    if paths:
        note_folder(folder, paths, args, seen)
    return paths


def note_folder(folder, paths, args, seen):
    folder = str(folder)
    if folder not in seen.folders:
        classes = {class_of(path) for path in paths}
        seen.say("images", f"{folder}: {len(paths):,} in {len(classes):,} folders")
    seen.folders[folder] = paths
    seen.share[folder] = args.max_unreadable


def read_classes(root, val):
    """`labelled.read_splits`, but for a val without class folders, of which it says what to do."""
    folder = Path(root, val)
    if folder.is_dir() and not labelled.class_folders(folder):
        n = len(find_images(folder))
        run.fail(
            f"{folder} is flat: {n:,} images and no class folders, as ImageNet's "
            f"ILSVRC2012_img_val.tar has them. Move each into {folder}/CLASS/ "
            "(for ImageNet valprep.sh of soumith/imagenetloader.torch does it)."
        )
    return labelled.read_splits(root, val)


def classes(root, val, args, seen):
    """The labelled images of ROOT/train and ROOT/val; None where there are none yet."""
    if seen.will_be_made(root):
        return None
    data = seen.ask(read_classes, root, val)
    if data:
        for name, split in (("train", data.train), (val, data.val)):
            folder = os.path.join(root, name)
            paths = [labelled.path_below(folder, file) for file in split.files]
            note_folder(folder, paths, args, seen)
    return data


def hundred_classes(source, out, seen):
    """What recipes/imagenet100.sh links: 100 classes of train and of val."""
    lines = (ROOT / "recipes/imagenet100.txt").read_text().split()
    names = [line for line in lines if line.startswith("n") and line[1:].isdecimal()]
    seen.makes(out)
    for split in ("train", "val"):
        folder = Path(source, split)
        if not folder.is_dir():
            seen.say("FAULT", f"{folder} is not a folder.")
            continue
        there = [name for name in names if (folder / name).is_dir()]
        if not labelled.class_folders(folder):
            seen.ask(read_classes, source, split)
        elif len(there) < len(names) and not os.environ.get("TINY"):
            lacking = sorted(set(names) - set(there))
            seen.say(
                "FAULT", f"{folder} lacks {len(lacking)} of the 100 classes, such as {lacking[0]}."
            )
        paths = [f"{name}/{file}" for name in there for file in os.listdir(folder / name)]
        seen.makes(os.path.join(out, split), paths)
        seen.say("images", f"{folder}: {len(paths):,} of {len(there)} of the 100 classes")


# ---------------------------------------------------------------- weights and models
def published(seen, *names):
    for name in names:
        file = weights.cache() / weights.PUBLISHED[name].file
        if file.exists():
            seen.say("weights", str(file))
        else:
            seen.say("FAULT", f"{file} is missing: bash recipes/weights.sh fetches it.")


def model(name, package, marker, layout, seen):
    """A model folder, or a hub id whose files are in the cache."""
    from huggingface_hub import snapshot_download

    if importlib.util.find_spec(package) is None:
        seen.say("FAULT", f"The package {package} is missing: pip install {package}")
    cached = functools.partial(snapshot_download, local_files_only=True)
    if folder := seen.answer(hub.model_folder, (name, marker, layout, cached)):
        seen.say("weights", str(folder))


def side_of(args, seen):
    """Pixels of the images that a command of 02_augment.py stores."""
    if args.strategy == "diffusion":
        return args.store_size
    if args.strategy == "noise" or not hasattr(args, "weights"):
        return getattr(args, "size", PUBLISHED_SIDE)
    return seen.made.get(os.path.normpath(args.weights or "")) or PUBLISHED_SIDE


# ---------------------------------------------------------------- the stages
def train_generator(args, seen):
    paths = images(args.data, args, seen)
    if paths:
        seen.answer(run.check_batch, (len(paths), args.batch_size))
    if args.model == "vqgan":
        seen.makes(args.out, args.size)
        if args.perceptual_weight and args.epochs > 0:
            published(seen, "vgg16")
    else:
        seen.must_exist(args.tokenizer, "--tokenizer")
        seen.makes(args.out, seen.made.get(os.path.normpath(args.tokenizer)))


def caption(args, seen):
    images(args.data, args, seen)
    layout = importlib.import_module("01_caption").LAYOUT
    model(args.model, "transformers", "config.json", layout, seen)
    seen.makes(args.out)


def augment(args, seen):
    paths = images(args.data, args, seen)
    if args.strategy in ("inpaint", "outpaint") and not args.weights:
        published(seen, "maskgit-tokenizer", "maskgit-transformer")
    elif args.strategy == "noise" and not args.weights:
        published(seen, "icgan", "swav")
    elif args.strategy == "diffusion" and not seen.will_be_made(args.model):
        model(args.model, "diffusers", "model_index.json", hub.PIPELINE_LAYOUT, seen)
    for name in ("weights", "captions", "backbone"):
        seen.must_exist(getattr(args, name, None), f"--{name}")
    free = {*run_folder.MAY_CHANGE, *STRATEGIES[args.strategy].choose_views}
    same_command(args, f"02_augment {args.strategy}", "augment.json", free, seen)
    if paths:
        there = sum(len(files) for _, _, files in os.walk(args.out))
        missing = max(0, len(paths) * estimates.stored_views(args) - there)
        seen.needs.append((args.out, estimates.stored_gigabytes(missing, side_of(args, seen))))
    seen.makes(args.out)


def pretrain(args, seen):
    stage = importlib.import_module("03_pretrain")
    paths = images(args.data, args, seen)
    complete = copy.copy(args)
    settings = seen.answer(stage.complete, (complete,))
    if paths:
        seen.answer(functools.partial(run.check_batch, least=2), (len(paths), complete.batch_size))
    for folder in args.generated if args.generated != ["real"] and complete.mix else ():
        seen.must_exist(folder, "--generated")
    seen.must_exist(args.init, "--init")
    if args.knn:
        classes(args.knn, "val", args, seen)
    same_command(
        complete, stage.STAGE, "args.json", {*run_folder.MAY_CHANGE, *stage.MAY_CHANGE}, seen
    )
    if settings and not Path(args.out, "backbone.pth").exists():
        seen.needs.append((args.out, estimates.BACKBONE_GB))
        fits_the_card(complete, settings, stage, seen)
    seen.makes(args.out)


def linear(args, seen):
    classes(args.data, args.eval_on, args, seen)
    evaluated(args, seen)


def fine_tune(args, seen):
    data = classes(args.data, args.eval_on, args, seen)
    if args.subset_file and not Path(args.subset_file).exists():
        seen.say(
            "FAULT",
            f"{args.subset_file} is missing: bash recipes/weights.sh fetches SimCLR's lists.",
        )
    elif args.subset_file and data:
        root = os.path.join(args.data, "train")
        files = tuple(data.train.files)
        if seen.ask(labelled.read_subset, args.subset_file, root, files):
            seen.say("labels", args.subset_file)
    evaluated(args, seen)


def transfer(args, seen):
    readers = importlib.import_module("06_transfer").READERS
    if not getattr(args, "download", False):
        data = seen.ask(readers[args.dataset], args.data)
        for split in (data.train, data.val) if data else ():
            gone = [file for file in matching.spread(split.files, 100) if not os.path.exists(file)]
            if gone:
                seen.say("FAULT", f"{args.dataset}: {gone[0]} is listed and does not exist.")
        if data:
            numbers = f"{len(data.train.files):,} and {len(data.val.files):,} images"
            seen.say("images", f"{args.data}: {args.dataset}, {numbers}")
    evaluated(args, seen)


def evaluated(args, seen):
    if args.backbone != "random":
        seen.must_exist(args.backbone, "--backbone")
    seen.makes(args.out)


def metrics(args, seen):
    if args.command == "report":
        return
    if getattr(args, "features", None) == "inception":
        if args.weights:
            seen.must_exist(args.weights, "--weights")
        else:
            published(seen, "inception")
    elif getattr(args, "features", "random") != "random":
        seen.must_exist(args.features, "--features")
    for folder in getattr(args, "mirrors", ()):
        seen.must_exist(folder, "a mirror")


LOOK = {
    "00_train_generator": train_generator,
    "01_caption": caption,
    "02_augment": augment,
    "03_pretrain": pretrain,
    "04_linear_eval": linear,
    "05_semisup_eval": fine_tune,
    "06_transfer": transfer,
    "07_metrics": metrics,
}


def same_command(args, stage, file, free, seen):
    """What stands in the folder of an earlier run must have been made by this very command."""
    path = Path(args.out, file)
    if path.exists():
        arguments = {name: value for name, value in vars(args).items() if name not in free}
        identity = {"stage": stage, "args": arguments}
        seen.answer(run_folder.write_or_check, (path, identity, "a run folder"))


# ---------------------------------------------------------------- memory and disk
def card():
    """GiB of a GPU, or None where there is none."""
    if torch.cuda.is_available():
        return memory.gpu_gib(torch.device("cuda", 0))
    size = os.environ.get("GCL_GPU_GIB")
    return float(size) if size else None


def fits_the_card(args, settings, stage, seen):
    """Count the memory of a training step; see memory.judge."""
    total = card()
    if total is None:
        return
    names = "method backbone small_images size views local_crops local_size projector batch_size"
    names += " optimizer grad_checkpoint precision"
    key = tuple(str(getattr(args, name)) for name in names.split())
    if key not in seen.known:
        build = functools.partial(stage.build_optimizer, recipe=settings)
        network = stage.build_model(args, settings, normalisation=None)
        bf16 = args.precision != "fp32"
        seen.known[key] = memory.judge(args, network, build, bf16, total)
    need, sentence = seen.known[key]
    if need + memory.CONTEXT > total:
        seen.say("FAULT", f"{args.out}: {sentence}")
    elif need + memory.WORKSPACE > total:
        seen.say("note", f"{args.out}: {sentence}")


def free_gigabytes(folder):
    """(number of the disk, GB that are free) of a folder that may not be there yet."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    pretended = os.environ.get(FREE)
    free = float(pretended) if pretended else shutil.disk_usage(place).free / 1e9
    return place.stat().st_dev, free


def disks(seen):
    """The space that mirrors and encoders will take, disk by disk."""
    needed, free, largest = {}, {}, {}
    for folder, gigabytes in seen.needs:
        disk, free[disk] = free_gigabytes(folder)
        needed[disk] = needed.get(disk, 0) + gigabytes
        largest[disk] = max(largest.get(disk, (0, "")), (gigabytes, folder))
    for disk, gigabytes in needed.items():
        _, folder = largest[disk]
        numbers = f"{gigabytes:,.1f} GB (an estimate), {free[disk]:,.1f} GB are free"
        if gigabytes > free[disk]:
            seen.say(
                "FAULT",
                f"The disk of {folder} is too small: what is still to be made takes {numbers}. "
                "Free some space, or choose folders on another disk with GEN and RUNS.",
            )
        else:
            seen.say("disk", f"{folder} and others: {numbers}")


def main(lines):
    seen = Seen()
    for words, processes in commands(lines):
        look(words, processes, seen)
    disks(seen)
    order = ["images", "labels", "weights", "disk", "note", "FAULT"]
    for line in sorted(seen.lines, key=lambda line: order.index(seen.lines[line])):
        print(line)
    if seen.faults:
        run.fail(f"This recipe would fail: see the {seen.faults} FAULTs above. Nothing was made.")


if __name__ == "__main__":
    if sys.stdin.isatty() or len(sys.argv) > 1:
        raise SystemExit(__doc__)
    main(sys.stdin.read().splitlines())
