"""The layers of the house: no import runs back or closes a circle; files and rooms are small."""

import ast
from collections import Counter
from pathlib import Path

from conftest import ROOT

LAYER = {"base": 0, "images": 1, "models": 2, "evaluate": 3, "augment": 4, "report": 5}
STAGES, ABOVE = 6, 7  # the numbered stages; recipes/ and extras/
DEVELOPERS = ("tests", "tools")


def product():
    """{path relative to the root: module name} of the product's Python files."""
    files = {}
    for path in sorted(ROOT.glob("*.py")) + sorted(ROOT.glob("*/*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in DEVELOPERS and not relative.parts[0].startswith("."):
            files[relative] = ".".join(relative.with_suffix("").parts)
    return files


def layer_of(relative):
    if len(relative.parts) == 1:
        return STAGES
    return LAYER.get(relative.parts[0], ABOVE)


def imports(path, modules):
    """The product's modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & modules


FILES = product()
MODULES = {module: relative for relative, module in FILES.items()}
ARROWS = {}
for relative in FILES:
    ARROWS[relative] = [MODULES[name] for name in imports(ROOT / relative, set(MODULES))]


def test_no_arrow_runs_back_and_no_circle():
    back = []
    for source, targets in ARROWS.items():
        for target in targets:
            same_room = source.parent == target.parent and source.parent != Path(".")
            if not same_room and layer_of(target) >= layer_of(source):
                back.append(f"{source} -> {target}")
    assert not back
    # Every file can be taken away once nothing that is left imports it.
    left = {source: set(targets) - {source} for source, targets in ARROWS.items()}
    while left:
        free = [source for source, targets in left.items() if not targets & left.keys()]
        assert free, f"a circle among {sorted(map(str, left))}"
        for source in free:
            del left[source]
    for relative in FILES:
        text = (ROOT / relative).read_text()
        assert not any(f"from {room}" in text or f"import {room}" in text for room in DEVELOPERS)


def test_files_rooms_signatures_and_names():
    assert len(FILES) <= 65
    for relative in FILES:
        assert len((ROOT / relative).read_text().splitlines()) <= 450, relative
    rooms = Counter(relative.parent for relative in FILES)
    assert max(rooms.values()) <= 20
    many = []
    for relative in FILES:
        for node in ast.walk(ast.parse((ROOT / relative).read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in node.args.args if a.arg != "self"]
                if len(names) > 6:
                    many.append(f"{relative}: {node.name}")
    assert not many
    # Neither within a room nor, where a name could mean many things, anywhere.
    places = {}
    for relative in FILES:
        for node in ast.parse((ROOT / relative).read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                room = "anywhere" if node.name in ONCE else relative.parent
                places.setdefault((room, node.name), []).append(str(relative))
    twice = {}
    for (room, name), files in places.items():
        if len(files) > 1 and room != Path(".") and name not in OFTEN:
            twice[name] = files
    assert not twice


ONCE = ("spread", "check", "read_batch", "draw", "share", "record")  # in the whole product
TWINS = "brightness contrast saturation hue grayscale blur solarize".split()  # batch_views.py's
OFTEN = ["main", "arguments", *TWINS]
