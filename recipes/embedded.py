"""Data sets that lie inside pip packages: finding their files, and making an image folder once."""

import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from base import run


def package_file(package, path):
    """The file `path` of an installed pip package, found without importing the package."""
    try:
        found = Path(distribution(package).locate_file(path))
    except PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        run.fail(
            f"{path} of the package {package} is missing: install it with "
            "`pip install -r requirements.txt`."
        )
    return found


def make_once(out, record, arguments, make):
    """Let make(folder) fill a folder beside `out`, then move it to `out`: all of it or nothing.

    record: name of the JSON file in `out` that keeps `arguments` and what `make` returned. If it is
    there already, nothing is made; other arguments than those that it keeps are refused.
    """
    out = Path(out).resolve()
    if (out / record).is_file():
        if json.loads((out / record).read_text())["arguments"] != arguments:
            run.fail(
                f"{out} was made with other arguments ({record} lists them): choose another --out.",
                2,
            )
        print(f"{out} is finished: nothing to do")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        run.fail(f"{out} exists and holds something else: choose another --out.", 2)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counts = make(partial)
    run.write_json(partial / record, {"arguments": arguments, "images": counts})
    partial.rename(out)
    for split, of_class in counts.items():
        listed = " ".join(f"{name} {n}" for name, n in of_class.items())
        print(f"{split}: {sum(of_class.values())} images: {listed}")
