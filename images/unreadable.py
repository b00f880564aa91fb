"""Images that cannot be read: one rule for all stages.

Such an image is named on stderr and in a file of the run, and it keeps its place in the list. In
training, the next image that can be read stands in for it. What is generated or measured leaves it
out. So no other image changes its place, its class or its seed, and nothing has to be known
beforehand. Where more than a share of a list cannot be read (--max-unreadable), the run ends.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from base import parallel, run
from images.read import UnreadableImage, read_image

RECORD = "unreadable.jsonl"  # of a run folder: one line for each such image
BLACK = np.zeros((64, 64, 3), np.uint8)  # takes the place of an image that is left out


# ---------------------------------------------------------------- the limit
def allowed(share, n):
    """How many of n images may be unreadable."""
    return int(share * n + 1e-9)


def too_many(found, n, share, where):
    """The sentence that ends a run. found: images that cannot be read; where: what names them."""
    names = ", ".join(map(str, sorted(found)[:3]))
    return (
        f"{len(found)} of {n} images cannot be read, more than --max-unreadable {share:g} allows, "
        f"such as {names}; see {where}. Mend or remove them, or allow more: the same command "
        "continues. python 07_metrics.py check FOLDER finds all such images of a folder"
    )


def say(reason):
    """Name an image on stderr. It is said by the process that has met it, whichever that is."""
    print(f"warning: {reason}", file=sys.stderr, flush=True)


def check_failed(failed, n, share):
    """Name the files that could not be read, {file: why} of this process; too many end the run.

    n: the number of files. Every process must call this. Returns those of all processes."""
    everywhere = {}
    for part in parallel.everyone(failed):
        everywhere |= part
    if parallel.rank() == 0:
        for _, reason in sorted(everywhere.items()):
            say(reason)
    if len(everywhere) > allowed(share, n) or len(everywhere) == n:
        run.fail(f"{too_many(everywhere, n, share, 'the lines above')}.")
    return everywhere


# ---------------------------------------------------------------- the record of a run
def read_record(file):
    """{name of a list: {file: why}} of a run's record. A half-written last line is passed over."""
    found = {}
    if file is None or not Path(file).exists():
        return found
    for line in run.read_text(file).splitlines():
        try:
            one = json.loads(line)
            found.setdefault(one["list"], {})[one["file"]] = one["reason"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def write_record(file, found):
    """Write a record, sorted; no file where nothing was found."""
    lines = []
    for name, reasons in sorted(found.items()):
        for path, reason in sorted(reasons.items()):
            lines.append(json.dumps({"list": name, "file": path, "reason": reason}) + "\n")
    if lines:
        run.write_text(file, "".join(lines))
    else:
        Path(file).unlink(missing_ok=True)


def counts(out):
    """{name of a list: how many of its images could not be read}, of the run folder `out`."""
    return {name: len(found) for name, found in sorted(read_record(Path(out, RECORD)).items())}


def forget_mended(out):
    """Take the images that can be read by now out of the record of the run folder `out`."""
    file = Path(out, RECORD)
    found = {}
    for name, reasons in read_record(file).items():
        for path, reason in reasons.items():
            try:
                read_image(path)
            except UnreadableImage:
                found.setdefault(name, {})[path] = reason
    write_record(file, found)


# ---------------------------------------------------------------- reading
class ImageList:
    """Image files in a fixed order, some of which may turn out to be unreadable.

    root, paths: the files; paths are relative to root. share: of them that may be unreadable.
    record: file that names those found, or None. name: of this list in it. failed: {index: why} of
    images that are known not to be usable. It can be sent to processes that read; they share the
    record, and so does a run that continues.
    """

    def __init__(self, root, paths, share=0.0, record=None, name="data", failed=None):
        self.root = os.fspath(root)
        self.paths = np.array([os.fsencode(path) for path in paths])  # one block for all workers
        self.share = share
        self.record = record
        self.name = name
        self.failed = failed or {}
        self.found = {}

    def __len__(self):
        return len(self.paths)

    def path(self, index):
        """The path of an image, relative to root."""
        return os.fsdecode(self.paths[index])

    def file(self, index):
        """The file of an image."""
        return os.path.join(self.root, self.path(index))

    def read(self, index):
        """uint8 (H, W, 3) of an image; None if it cannot be read, which is then noted.

        Raises OSError where too many images cannot be read, or where the machine is at fault."""
        file = self.file(index)
        reason = self.failed.get(index)
        if reason is None:
            try:
                return read_image(file)
            except UnreadableImage as error:
                reason = str(error)
        self.note(file, reason)
        return None

    def read_or_next(self, index):
        """(uint8 (H, W, 3), place) of an image, or of the first after it that can be read.

        After the last image comes the first one."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            image = self.read(place)
            if image is not None:
                return image, place
        raise OSError(f"none of the {len(self)} images can be read")

    def usable_or_next(self, index):
        """The place of an image, or of the first after it, that is not in `failed`."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place not in self.failed:
                return place
            self.note(self.file(place), self.failed[place])
        raise OSError(f"none of the {len(self)} images can be read")

    def note(self, file, reason):
        """Name an unreadable image once; end the run where there are too many."""
        self.found |= read_record(self.record).get(self.name, {})
        if file not in self.found:
            say(reason)
            self.found[file] = reason
            self.append(file, reason)
        if len(self.found) > allowed(self.share, len(self)):
            where = self.record or "the lines above"
            raise OSError(too_many(self.found, len(self), self.share, where))

    def append(self, file, reason):
        """Add a line to the record, in one piece: several processes may do so at once."""
        if self.record is None:
            return
        line = json.dumps({"list": self.name, "file": file, "reason": reason}) + "\n"
        target = os.open(self.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(target, line.encode())
        finally:
            os.close(target)


def listed(files, args, name, root=""):
    """The ImageList of a stage that has a run folder: --max-unreadable and --out say the rest."""
    return ImageList(root, files, args.max_unreadable, Path(args.out, RECORD), name)
