"""Hours, disk and memory that docs/costs.md and the recipes quote are those that are counted."""

import os

import estimates
import operations
import pytest
from conftest import ROOT, run, warm_python

READMES = (ROOT / "docs/costs.md").read_text() + (ROOT / "recipes/README.md").read_text()


def quoted(first_cell):
    """The rows of the tables of docs/costs.md and recipes/README.md that begin with this cell."""
    return [line for line in READMES.splitlines() if line.startswith(f"| {first_cell} |")]


@pytest.fixture(autouse=True)
def a_warm_start(monkeypatch):
    monkeypatch.setenv("PATH", f"{warm_python().parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("recipe", sorted(estimates.RECIPES))
def test_headers_of_the_recipes(recipe):
    text = (ROOT / f"recipes/{recipe}.sh").read_text()
    assert estimates.header(recipe) in text
    row = estimates.recipe_row(recipe)
    assert quoted(recipe) == [row]


@pytest.mark.parametrize("study", sorted(estimates.STUDIES))
def test_shorter_studies(study):
    _, recipe, _, environment = estimates.STUDIES[study]
    assert f"{environment} bash recipes/{recipe}.sh" in READMES.replace("\\\n    ", "")
    assert quoted(study) == [estimates.study_row(study)]


@pytest.mark.parametrize("stage", sorted(estimates.IMAGENET_STAGES))
def test_stages(stage):
    for line in quoted(stage):
        assert line == estimates.stage_row(stage)


@pytest.mark.parametrize("method, views", [("swav", 3), ("dino", 1)])
def test_memory(method, views, monkeypatch):
    monkeypatch.setattr(estimates, "VIEWS", {views: estimates.VIEWS[views]})
    cell = estimates.memory_row(method, 6).split(" | ")[2].rstrip(" |")
    for line in quoted(f"{method} | 6"):
        assert line.split(" | ")[1 + views].rstrip(" |") == cell


def test_operations_of_known_networks():
    """ResNet-50 has 4.09 billion multiply-adds (torchvision's table of its models)."""
    assert operations.resnet("resnet50", 224) == pytest.approx(2 * 4.09e9, rel=0.01)
    assert operations.perceptual(224) == pytest.approx(2 * 15.35e9, rel=0.01)  # without classifier
    assert "estimates.py recipes" in run("tools/estimates.py", code=1).stderr
