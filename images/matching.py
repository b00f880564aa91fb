"""Images and their namesakes: which file of one folder belongs to which file of another."""

import json
import os
from pathlib import Path

from base import run
from images.files import find_images


def mirror_root(folder):
    """The mirror that holds a folder of generated images, or None if it lies in no mirror.

    A mirror (of 02_augment.py) has an augment.json. Its views lie in it, or one folder deeper.
    """
    folder = Path(folder).resolve()
    for place in (folder, *folder.parents[:2]):
        if (place / "augment.json").exists():
            return place
    return None


def read_failures(mirror):
    """{path: why} of the originals that 02_augment.py could not read, from MIRROR/failed.jsonl."""
    file = Path(mirror, "failed.jsonl")
    failed = {}
    if not file.exists():
        return failed
    for number, line in enumerate(run.read_text(file).splitlines(), 1):
        try:
            failure = json.loads(line)
            failed[failure["path"]] = failure["reason"]
        except (ValueError, KeyError, TypeError):
            run.fail(
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
    return {os.path.splitext(path)[0]: why for path, why in read_failures(root).items()}


def matched(a, b, common=False):
    """[(path in a, path in b)] of the images with the same relative path, extension aside.

    Every image of one folder must be in the other one, unless only the `common` ones are wanted.
    Originals that 02_augment.py could not read are left out, and a line says so.
    """
    if mirror_root(b) == Path(b).resolve():
        run.fail(f"{b} is the root of a mirror: give one of its views, such as {b}/view0.", 2)
    of_a = {os.path.splitext(path)[0]: path for path in find_images(a)}
    of_b = {os.path.splitext(path)[0]: path for path in find_images(b)}
    both = [stem for stem in of_a if stem in of_b]
    only_a = [path for stem, path in of_a.items() if stem not in of_b]
    only_b = [path for stem, path in of_b.items() if stem not in of_a]
    failed = unread(b)
    left_out = [path for path in only_a if os.path.splitext(path)[0] in failed]
    if left_out:
        run.warn(f"{len(left_out)} images of {a} are left out: 02_augment.py could not read them.")
        only_a = [path for path in only_a if path not in left_out]
    if both and (common or not only_a and not only_b):
        return [(of_a[stem], of_b[stem]) for stem in both]
    missing = []
    for root, paths in ((a, only_a), (b, only_b)):
        if paths:
            missing.append(f"{len(paths)} are only in {root}, such as {', '.join(paths[:3])}")
    advice = "--common compares only what both have." if both else "None is in both."
    run.fail(f"{a} and {b} hold different images: {'; '.join(missing)}. {advice}")


def spread(items, number):
    """At most `number` of the items, at equal distances over the whole list."""
    step = max(1, len(items) // number)
    return items[::step][:number]
