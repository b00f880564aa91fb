"""What spoils a folder, for tests/test_bad_inputs.py, and what must be there afterwards.

A function that is marked `later` keeps its arguments and is called with the folder afterwards.
"""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from images import files, read


def later(function):
    def keep(*args, **options):
        return lambda root: function(root, *args, **options)

    return functools.wraps(function)(keep)


def nothing(root):
    """Only the command is wrong."""


def place(root, name):
    """A path below root; names of bytes need not be UTF-8."""
    return os.path.join(os.fsencode(root), os.fsencode(name))


@later
def put(root, name, content=b""):
    file = place(root, name)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "wb") as target:
        target.write(content)


@later
def edit(root, name, change):
    """change(the bytes of a file) are its new bytes."""
    file = Path(root, name)
    file.write_bytes(change(file.read_bytes()))


@later
def remove(root, name):
    path = Path(root, name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@later
def rename(root, old, new):
    os.renames(place(root, old), place(root, new))


@later
def copy(root, old, new):
    source = Path(root, old)
    target = Path(root, new)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


@later
def link(root, name, target):
    Path(root, name).symlink_to(target)


@later
def all_of(root, *spoils):
    for one in spoils:
        one(root)


@later
def enter(root, name):
    """The command is started in another folder, which is made if it is not there."""
    Path(root, name).mkdir(exist_ok=True)
    os.chdir(Path(root, name))


WRITER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 of host")
file.flush()
print(flush=True)
sys.stdin.read()
"""


@later
def writer(root, name):
    """Another process writes this file, as long as there is this one."""
    path = Path(root, name)
    path.parent.mkdir(exist_ok=True)
    words = [sys.executable, "-S", "-E", "-c", WRITER, path.with_name(f".{path.name}.lock")]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    writers.append(other)


writers = []  # to be ended after the case


def picture(size=(32, 32), kind="PNG"):
    """The bytes of an image file of (width, height) pixels."""
    data = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(data, kind)
    return data.getvalue()


@later
def convert(root, folder, *suffixes):
    """The images below a folder get other extensions, in turn."""
    for i, file in enumerate(sorted(Path(root, folder).rglob("*.png"))):
        new = file.with_suffix(suffixes[i % len(suffixes)])
        Image.open(file).save(new, quality=95)
        file.unlink()


@later
def tiffs(root, change, **options):
    """The images become TIFFs of the values change(uint8 (H, W, 3))."""
    for file in Path(root, "data/train").rglob("*.png"):
        values = change(read.read_image(file))
        tifffile.imwrite(file.with_suffix(".tif"), values, **options)
        file.unlink()


@later
def weights(root, change):
    """change(the backbone's state dict) is what its file holds."""
    file = Path(root, "runs/base/backbone.pth")
    content = change(torch.load(file, weights_only=True))
    torch.save(content, file)


@later
def with_value(root, name, value):
    """An element of a weight of the backbone has this value."""
    file = Path(root, "runs/base/backbone.pth")
    state = torch.load(file, weights_only=True)
    state[name].view(-1)[3] = value
    torch.save(state, file)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@later
def there(root, *names):
    for name in names:
        assert os.path.exists(place(root, name)), name


@later
def unread(root, *names):
    """failed.jsonl names these images and no others; all others are done."""
    lines = Path(root, "out/failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(names)
    found = files.find_images(Path(root, "data/train"))
    done = files.find_images(Path(root, "out/view0"))
    assert len(done) == len(found) - len(names)


def same_colours(root, channels=3):
    """The blurred mirror `out` has the colours of `gen`; its noise is another one."""
    for file in Path(root, "gen/view0").rglob("*.png"):
        expected = read.read_image(file)
        found = read.read_image(Path(root, "out", file.relative_to(Path(root, "gen"))))
        difference = found.mean((0, 1)) - expected.mean((0, 1))
        assert np.abs(difference[:channels]).max() < 3, file


same_red = functools.partial(same_colours, channels=1)  # only the first band was kept, as gray


@later
def lines_of(root, name, number):
    assert len(Path(root, name).read_text().splitlines()) == number
