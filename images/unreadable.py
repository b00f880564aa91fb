"""Images that cannot be read: one rule for all stages.

Such an image is named on stderr and in a file of the run, and it keeps its place in the list. In
training, the next image that can be read stands in for it. What is generated or measured leaves it
out. So no other image changes its place, its class or its seed, and nothing has to be known
beforehand. Where more than a share of a list cannot be read (--max-unreadable), the run ends. Used
by every stage that reads images.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from base import parallel, run
from base.run_folder import RECORD, read_record
from images.read import UnreadableImage, read_image

BLACK = np.zeros((64, 64, 3), np.uint8)  # takes the place of an image that is left out


# ---------------------------------------------------------------- the limit
def allowed(share, n):
    """How many of n images may be unreadable."""
    return int(share * n + 1e-9)


def too_many(files, n, share, where):
    """The sentence that ends a run. files: those that cannot be read; where: what names them."""
    names = ", ".join(map(str, sorted(files)[:3]))
    return (
        f"{len(files)} of {n} images cannot be read, more than --max-unreadable {share:g} allows, "
        f"such as {names}; see {where}. Mend or remove them, or allow more: the same command "
        "continues. python 07_metrics.py check FOLDER finds all such images of a folder"
    )


def say(reason):
    """Name an image on stderr, from whichever process has met it."""
    print(f"warning: {reason}", file=sys.stderr, flush=True)


def check_failed(failed, n, share):
    """Name the files that could not be read, {file: why} of this process; too many end the run.

    n: the number of files. Every process must call this. Returns those of all processes."""
    everywhere = parallel.union(failed)
    if parallel.rank() == 0:
        for _, reason in sorted(everywhere.items()):
            say(reason)
    if len(everywhere) > allowed(share, n) or len(everywhere) == n:
        run.fail(f"{too_many(everywhere, n, share, 'the lines above')}.")
    return everywhere


# ---------------------------------------------------------------- reading
def why_unreadable(file):
    """Why an image cannot be read; "" for one that can."""
    try:
        read_image(file)
    except UnreadableImage as error:
        return str(error)
    return ""


class ImageList:
    """Image files in a fixed order, some of which may turn out to be unreadable.

    root, paths: the files; paths are relative to root. share: of them that may be unreadable.
    record: file that names those met, or None. name: of this list in it. failed: {index: why} of
    images that are not to be used. It can be sent to processes that read; they share the record,
    and so does a run that continues.
    """

    def __init__(self, root, paths, share=0.0, record=None, name="data", failed=None):
        self.root = os.fspath(root)
        names = [os.fsencode(path) for path in paths]
        self.names = b"".join(names)  # one block for all workers
        self.ends = np.cumsum([0, *map(len, names)])
        self.share = share
        self.record = record
        self.name = name
        self.failed = failed or {}
        self.met = {}

    def __len__(self):
        return len(self.ends) - 1

    def path(self, index):
        """The path of an image, relative to root."""
        begin, end = self.ends[index : index + 2]
        return os.fsdecode(self.names[begin:end])

    def file(self, index):
        """The file of an image."""
        return os.path.join(self.root, self.path(index))

    def read(self, index):
        """uint8 (H, W, 3) of an image; None if it cannot be read, which is then recorded.

        Raises OSError where too many images cannot be read, or where the machine is at fault."""
        file = self.file(index)
        reason = self.failed.get(index)
        if reason is None:
            try:
                return read_image(file)
            except UnreadableImage as error:
                reason = str(error)
        self.add(file, reason)
        return None

    def read_or_next(self, index, pixels=True):
        """(uint8 (H, W, 3), its index) of an image, or of the first after it that can be read.

        After the last image comes the first one. pixels=False: nothing is read, the image is None,
        and only those in `failed` are passed over."""
        for step in range(len(self)):
            there = (index + step) % len(self)
            if not pixels and there not in self.failed:
                return None, there
            image = self.read(there)
            if image is not None:
                return image, there
        raise OSError(f"none of the {len(self)} images can be read")

    def add(self, file, reason):
        """Name an unreadable image once; end the run where there are too many."""
        self.met |= read_record(self.record).get(self.name, {})
        if file not in self.met:
            say(reason)
            self.met[file] = reason
            if self.record:
                line = json.dumps({"list": self.name, "file": file, "reason": reason})
                with open(self.record, "ab", buffering=0) as record:  # one write: others write too
                    record.write(line.encode() + b"\n")
        if len(self.met) <= allowed(self.share, len(self)):
            return
        where = "the lines above"
        if self.record:
            where = f"{self.record} (and delete it when they are mended)"
        raise OSError(too_many(self.met, len(self), self.share, where))


def listed(files, share, out, name="data", root=""):
    """The ImageList of a stage whose run folder is `out`; share: its --max-unreadable."""
    return ImageList(root, files, share, Path(out, RECORD), name)
