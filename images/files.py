"""Folders of images: finding them, their classes, their mirrors; reading ahead.

Paths are strings relative to their folder, with "/". A name that is not UTF-8 keeps its bytes as
Python's surrogate escapes. Used by all that reads a folder.
"""

import atexit
import collections
import functools
import json
import multiprocessing.util
import os
import re
import signal
from pathlib import Path

import numpy as np

from base.run import fail, read_text, warn
from images.read import check_values

# Folders of systems and archives. They hold thumbnails and old copies.
SYSTEM_FOLDERS = frozenset(
    [
        "__MACOSX",  # of macOS's zip files
        "@eaDir",  # of Synology's disks
        "#recycle",
        "#snapshot",
        "@Recycle",  # of QNAP's disks
        "$RECYCLE.BIN",  # of Windows
        "System Volume Information",
        "lost+found",  # of Linux file systems
    ]
)

warn_once = functools.cache(warn)  # however often a stage looks at the same folder

EXTENSIONS = frozenset(  # in lower case, without the dot
    "jpg jpeg jfif png bmp dib gif webp avif jp2 j2k tif tiff ppm pgm pbm pnm tga ico".split()
)


# ---------------------------------------------------------------- finding
def is_passed_over(name):
    """Whether images are not looked for in a folder of this name: it is hidden, or a system's."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def find_images(root):
    """All images below `root`: sorted posix paths relative to it, extension included.

    These are errors: a folder without images, or one that cannot be read; a link to a folder above
    it; two files that differ only in their extension (their generated views would collide); images
    of more than 8 bits whose black and white are not clear (see images.read.check_values).
    Hidden files and the folders of systems are not looked at. All else is counted on stderr."""
    root = os.fspath(root)
    if not os.path.isdir(root):
        fail(f"{root} is not a folder: give the folder whose images are to be used.", 2)
    paths = []
    others = collections.Counter()
    try:
        for file in _files_below(root):
            kind = extension(file)
            if kind in EXTENSIONS:
                paths.append(file.removeprefix(os.path.join(root, "")))
            else:
                others[kind] += 1
    except OSError as error:
        fail(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it out "
            "of the way."
        )
    if not paths:
        fail(f"{root} holds no images{_counted(others)}.", 2)
    if others:
        warn_once(
            f"{root}: files that are no images by their names were passed over{_counted(others)}"
        )
    paths.sort()
    first = {}
    for path in paths:
        other = first.setdefault(stem_of(path), path)
        if other != path:
            fail(
                f"{root}: {other} and {path} differ only in their extension: rename one of them.", 2
            )
    check_values(root, paths)
    return paths


def _files_below(folder):
    """The files below a folder that are not hidden, also behind links."""
    if os.path.islink(folder):
        for above in Path(folder).absolute().parents:
            if os.path.samefile(folder, above):
                fail(f"{folder} is a link to a folder above it: remove it, for it has no end.", 2)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not is_passed_over(entry.name):
                    yield from _files_below(entry.path)
            # A link to nothing is kept, so that whoever reads it says so. A pipe would never end.
            elif not entry.name.startswith(".") and (entry.is_file() or entry.is_symlink()):
                yield entry.path


def extension(path):
    """In lower case, without the dot; "" if there is none."""
    return os.path.splitext(path)[1][1:].lower()


def stem_of(path):
    """A path without its extension: what an image and its generated views have in common."""
    return os.path.splitext(path)[0]


def _counted(others):
    """ ": 12 .txt, 1 .csv", the six commonest first."""
    kinds = []
    for kind, number in sorted(others.items(), key=lambda item: (-item[1], item[0]))[:6]:
        kinds.append(f"{number} .{kind}" if kind.isalnum() else f"{number} without extension")
    return ": " + ", ".join(kinds) if kinds else ""


def class_of(path):
    """The class of CLASS/.../image: the name of its first folder, "" for one in the root."""
    return path.split("/")[0] if "/" in path else ""


# ---------------------------------------------------------------- mirrors
def views_of(mirror):
    """The view folders of a mirror, in the order of their numbers: [Path]. A view's name is "view"
    and a number. A folder that holds no such folder is taken for a view itself."""
    mirror = Path(mirror)
    if not mirror.is_dir():
        fail(f"{mirror} is not a folder: give a mirror that 02_augment.py made.", 2)
    folders = []
    for folder in mirror.iterdir():
        if re.fullmatch("view[0-9]+", folder.name) and folder.is_dir():
            folders.append(folder)
    return sorted(folders, key=lambda folder: int(folder.name[4:])) or [mirror]


def suffixes_in(view, paths):
    """The extensions of the generated images of `paths`, with their dots, in a view of a mirror.

    paths: images as find_images lists them. Their generated images have the same name, and any
    extension that read_image reads. Returns bytes (len(paths),); b"" where there is no file.
    """
    generated = {stem_of(path): os.path.splitext(path)[1] for path in find_images(view)}
    return np.array([generated.get(stem_of(path), "").encode() for path in paths])


def mirror_root(folder):
    """The mirror that holds a folder of generated images, or None if it lies in no mirror.

    A mirror (of 02_augment.py) has an augment.json. Its views lie in it, or one folder deeper.
    """
    folder = Path(folder).resolve()
    for root in (folder, *folder.parents[:2]):
        if (root / "augment.json").exists():
            return root
    return None


def read_failures(mirror):
    """{path: why} of the originals that 02_augment.py could not read, from MIRROR/failed.jsonl."""
    file = Path(mirror, "failed.jsonl")
    failed = {}
    lines = read_text(file).splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            failure = json.loads(line)
            failed[failure["path"]] = failure["reason"]
        except (ValueError, KeyError, TypeError):
            fail(
                f"{file}, line {number} does not name an image: delete the file, and run "
                "02_augment.py again."
            )
    return failed


def unread(folder):
    """{path without its extension: why} of the originals that 02_augment.py could not read.

    folder: a mirror or one of its views.
    """
    root = mirror_root(folder)
    if root is None:
        return {}
    return {stem_of(path): why for path, why in read_failures(root).items()}


def matched(a, b, common=False):
    """[(path in a, path in b)] of the images with the same relative path, extension aside.

    Every image of one folder must be in the other one, unless only the `common` ones are wanted.
    Originals that 02_augment.py could not read are left out, and a line says so.
    """
    if mirror_root(b) == Path(b).resolve():
        fail(f"{b} is the root of a mirror: give one of its views, such as {b}/view0.", 2)
    of_a, of_b = ({stem_of(path): path for path in find_images(root)} for root in (a, b))
    both = of_a.keys() & of_b.keys()
    left_out = (of_a.keys() - both) & unread(b).keys()
    if left_out:
        warn(f"{len(left_out)} images of {a} are left out: 02_augment.py could not read them.")
    only_a = sorted(of_a[stem] for stem in of_a.keys() - both - left_out)
    only_b = sorted(of_b[stem] for stem in of_b.keys() - both)
    if both and (common or not only_a and not only_b):
        return [(path, of_b[stem]) for stem, path in of_a.items() if stem in both]
    missing = []
    for root, paths in ((a, only_a), (b, only_b)):
        if paths:
            missing.append(f"{len(paths)} are only in {root}, such as {', '.join(paths[:3])}")
    advice = "--common compares only what both have." if both else "None is in both."
    fail(f"{a} and {b} hold different images: {'; '.join(missing)}. {advice}")


def evenly(items, number):
    """At most `number` of the items, at equal distances over the whole list."""
    n = min(number, len(items))
    return [items[i * len(items) // n] for i in range(n)]


# ---------------------------------------------------------------- reading ahead
class Reading:
    """`read(item)` for every item that is asked for.

    read: a function at the top level of a module, a `functools.partial` of one, or an object with
    __call__: it can then be sent to worker processes, however these are started.
    """

    def __init__(self, read):
        self.read = read

    def __getitem__(self, item):
        return self.read(item)


def ignore_signals(worker):
    """In a process that reads: a training that is told to stop goes on until its checkpoint, and so
    do its readers (see training.Resumable)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@atexit.register  # after multiprocessing.util's, so that it runs before: that would wait for ever
def end_readers():
    """Readers end with their process, whatever they are doing."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would call it an error
    for process in multiprocessing.active_children():
        process.kill()


def read_ahead(items, read, workers, device, prefetch=2):
    """Iterate over read(item) of the items, in their order; `workers` processes read ahead.

    items: any iterable, also an endless generator. An item may be a whole batch.
    prefetch: items that each worker holds ready.
    """
    import torch

    return torch.utils.data.DataLoader(
        Reading(read),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=ignore_signals,
    )
