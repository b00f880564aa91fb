"""Folders of images: finding them, their mirrors, reading ahead, squares, contact sheets.

Images are uint8 (H, W, 3) RGB arrays. Paths are strings relative to their folder, with "/". A name
that is not UTF-8 keeps its bytes as Python's surrogate escapes.
"""

import collections
import functools
import os
import re
import textwrap
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from base.run import atomic, fail
from images.read import check_values, warn_once

# Folders of systems and archives. They hold thumbnails and old copies.
SYSTEM_FOLDERS = frozenset(
    [
        "__MACOSX",  # of macOS's zip files
        "__pycache__",
        "@eaDir",  # of Synology's disks
        "#recycle",
        "#snapshot",
        "@Recycle",  # of QNAP's disks
        "@Recently-Snapshot",
        "$RECYCLE.BIN",  # of Windows
        "$Recycle.Bin",
        "RECYCLER",
        "System Volume Information",
        "lost+found",  # of Linux file systems
    ]
)

# Kinds of files that Pillow registers, but that are no pictures, need another program, or will be
# dropped (IM). A .pcd is a point cloud more often than a photograph of Kodak's.
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IM", "IPTC", "MPEG", "PCD", "WMF"}

MISSING = 255  # an index of generated_files: there is no such file
STRIP = 8  # squares; a longer image is cut before it is resized


# ---------------------------------------------------------------- finding
def is_passed_over(name):
    """Whether images are not looked for in a folder of this name: it is hidden, or a system's."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


@functools.cache
def extensions():
    """The extensions of the files that read_image reads: in lower case, without the dot."""
    Image.init()
    readable = Image.OPEN.keys() - NO_PICTURES
    registered = Image.registered_extensions().items()
    return frozenset(extension[1:] for extension, kind in registered if kind in readable)


def find_images(root):
    """All images below `root`: sorted posix paths relative to it, extension included.

    These are errors: a folder without images, or one that cannot be read; a link to a folder above
    it; two files that differ only in their extension (their generated views would collide); images
    of more than 8 bits whose black and white are not clear (see images.read.check_values).
    Hidden files and the folders of systems are not looked at. All else is counted on stderr."""
    root = os.fspath(root)
    if not os.path.isdir(root):
        fail(f"{root} is not a folder: give the folder whose images are to be used.", 2)
    found = []
    others = collections.Counter()
    waiting = [("", ())]  # folders below the root, each with the identities of those above it
    while waiting:
        below, above = waiting.pop()
        path = os.path.join(root, below)
        try:
            identity = _identity(path, above)
            images, folders = _look_into(path, others)
        except OSError as error:
            fail(
                f"{error.filename or path} cannot be read ({error.strerror}): make it readable, or "
                "move it out of the way."
            )
        prefix = below + "/" if below else ""
        _check_stems(root, prefix, images)
        found += [prefix + name for name in images]
        waiting += [(prefix + name, (*above, identity)) for name in folders]
    if not found:
        fail(f"{root} holds no images{_counted(others)}.", 2)
    if others:
        warn_once(
            f"{root}: files that are no images by their names were passed over{_counted(others)}"
        )
    found.sort()
    check_values(root, found)
    return found


def _identity(folder, above):
    """What tells a folder from all others, however a link names it. `above`: those it lies in."""
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        fail(f"{folder} is a link to a folder above it: remove it, for it has no end.", 2)
    return identity


def _look_into(folder, others):
    """The names of the images and of the folders in a folder. `others` counts what is neither."""
    images = []
    folders = []
    known = extensions()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir():
                if not is_passed_over(name):
                    folders.append(name)
                continue
            if name.startswith("."):
                continue
            extension = _extension(name)
            # A link to nothing is kept, so that whoever reads it says so. A pipe would never end.
            if extension in known and (entry.is_file() or entry.is_symlink()):
                images.append(name)
            else:
                others[extension] += 1
    return images, folders


def _extension(name):
    """In lower case, without the dot; "" if there is none."""
    return name[name.rfind(".") + 1 :].lower() if "." in name else ""


def _check_stems(root, prefix, names):
    """Refuse two names of one folder that differ only in their extension."""
    stems = {name.rpartition(".")[0] for name in names}
    if len(stems) == len(names):
        return
    seen = {}
    for name in sorted(names):
        stem = name.rpartition(".")[0]
        if stem in seen:
            fail(
                f"{root}: {prefix}{seen[stem]} and {prefix}{name} differ only in their extension: "
                "rename one of them.",
                2,
            )
        seen[stem] = name


def _counted(others):
    """ ": 12 .txt, 1 .csv", the commonest first."""
    kinds = []
    by_number = sorted(others.items(), key=_commonest_first)
    for extension, number in by_number[:6]:
        kind = f".{extension}" if extension.isalnum() else "without extension"
        kinds.append(f"{number} {kind}")
    if len(others) > 6:
        kinds.append("...")
    return ": " + ", ".join(kinds) if kinds else ""


def _commonest_first(item):
    extension, number = item
    return -number, extension


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
    numbered = []
    for folder in mirror.iterdir():
        number = re.fullmatch("view([0-9]+)", folder.name)
        if number and folder.is_dir():
            numbered.append((int(number[1]), folder))
    return [folder for _, folder in sorted(numbered)] or [mirror]


def generated_files(view, paths):
    """Where the generated images of `paths` are, in one view folder of a mirror.

    paths: images as find_images lists them. Their generated images have the same name, and any
    extension that read_image reads. Two of one name are an error.
    Returns (suffixes, index), index uint8 (len(paths),): the file of paths[i] is its name without
    extension plus suffixes[index[i]], such as ".jpg"; index[i] is MISSING where there is none.
    """
    suffixes = []
    index = np.full(len(paths), MISSING, np.uint8)
    listed = {}  # {folder: {stem: suffix}}
    for i, path in enumerate(paths):
        folder, slash, name = path.rpartition("/")
        if folder not in listed:
            # The paths are sorted: only the folders above this one will be asked for again.
            listed = {top: files for top, files in listed.items() if _lies_in(folder, top)}
            listed[folder] = _files_by_stem(Path(view, folder))
        suffix = listed[folder].get(name.rpartition(".")[0])
        if suffix is None:
            continue
        if suffix not in suffixes:
            suffixes.append(suffix)
        index[i] = suffixes.index(suffix)
    return suffixes, index


def _lies_in(folder, top):
    return top == "" or folder.startswith(top + "/")


def _files_by_stem(folder):
    """{name without extension: extension with its dot} of the images in a folder."""
    files = {}
    known = extensions()
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return files
    except OSError as error:
        fail(f"{folder} cannot be read ({error.strerror}): make it readable.")
    for name in names:
        if name.startswith(".") or _extension(name) not in known:
            continue
        stem, dot, extension = name.rpartition(".")
        if stem in files:
            both = " and ".join(sorted([stem + files[stem], name]))
            fail(f"{folder} holds {both}, two images of one name: remove one of them.")
        files[stem] = dot + extension
    return files


# ---------------------------------------------------------------- reading ahead
class Reading(torch.utils.data.Dataset):
    """`read(item)` for every item that is asked for.

    read: a function at the top level of a module, a `functools.partial` of one, or an object with
    __call__: it can then be sent to worker processes, however these are started.
    """

    def __init__(self, read):
        self.read = read

    def __getitem__(self, item):
        return self.read(item)


def read_ahead(items, read, workers, device, prefetch=2):
    """Iterate over read(item) of the items, in their order; `workers` processes read ahead.

    items: any iterable, also an endless generator. An item may be a whole batch.
    prefetch: items that each worker holds ready.
    """
    return torch.utils.data.DataLoader(
        Reading(read),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=prefetch if workers else None,
    )


# ---------------------------------------------------------------- squares and files
def without_ends(image):
    """The middle of a strip, an image longer than STRIP squares; all others as they are.

    For whoever resizes an image and then cuts out its centre: resized whole to 256 pixels, a strip
    of 1 x 100,000 pixels would take 20 GB."""
    height, width = image.shape[:2]
    longest = STRIP * min(height, width)
    if max(height, width) <= longest:
        return image
    top = max(0, height - longest) // 2
    left = max(0, width - longest) // 2
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def square(image, size):
    """Shorter side to `size` (Pillow bicubic, antialiased), centre crop: uint8 (size, size, 3)."""
    if image.shape[:2] == (size, size):
        return image
    image = without_ends(image)
    height, width = image.shape[:2]
    scale = size / min(height, width)
    height = max(size, round(height * scale))
    width = max(size, round(width * scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def write_image(path, image):
    """Write uint8 (H, W, 3) atomically; JPEG at quality 95 without chroma subsampling."""
    with atomic(path) as temporary:
        if temporary.suffix == ".jpg":
            options = {"quality": 95, "subsampling": 0}
        else:
            options = {"compress_level": 1}
        Image.fromarray(image).save(temporary, **options)


def stored_suffix(size):
    """Generated images are JPEGs, because a 256 px PNG takes longer to decode than a photograph.
    Small ones are PNGs."""
    return ".png" if size < 128 else ".jpg"


def as_stored(image, size):
    """What a generated image is when it is read again: a square, and JPEG's unless it is small."""
    image = square(image, size)
    if stored_suffix(size) == ".png":
        return image
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, data = cv2.imencode(".jpg", image[..., ::-1], options)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


# ---------------------------------------------------------------- contact sheets
def contact_sheet(path, rows, titles=(), labels=(), cell=None):
    """A PNG to look at: one row of images for each entry of `rows`.

    titles: text above the columns. labels: text beside the rows. cell: pixels of an image's longer
    side; left out, the tallest image's height between 64 and 256."""
    if cell is None:
        tallest = max(image.shape[0] for row in rows for image in row)
        cell = max(64, min(256, tallest))
    columns = max(map(len, rows))
    gap = 4
    head = 18 if titles else 0
    beside = 260 if labels else 0
    width = columns * (cell + gap) + gap + beside
    height = len(rows) * (cell + gap) + gap + head
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell + gap), 3), _drawable(title), fill="black")
    for r, row in enumerate(rows):
        top = head + gap + r * (cell + gap)
        for column, image in enumerate(row):
            sheet.paste(_fitted(image, cell), (gap + column * (cell + gap), top))
        if r < len(labels):
            text = "\n".join(textwrap.wrap(_drawable(labels[r]), 40))
            draw.multiline_text((columns * (cell + gap) + 2 * gap, top), text, fill="black")
    with atomic(path) as temporary:
        sheet.save(temporary)


def _fitted(image, cell):
    """A Pillow image whose longer side is `cell`; small ones keep their pixels' edges."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = cell / max(picture.size)
    width = max(1, round(picture.width * scale))
    height = max(1, round(picture.height * scale))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    return picture.resize((width, height), how)


def _drawable(text):
    """A name that is not UTF-8 has characters that no font can draw: they become "?"."""
    return str(text).encode("utf-8", "replace").decode()
