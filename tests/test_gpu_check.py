"""gpu_check.py on a CPU: its sections run, and its lines say what is wrong."""

import json
import os
import sys

import gpu_check
import gpu_memory
import gpu_parity
import gpu_ranks
import gpu_speed
import gpu_tools
import pytest
import torch
from conftest import ROOT, run, shell, warm_python, write_images
from gpu_tools import Report, Workshop, relative

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def warm_start():
    real = gpu_tools.PYTHON
    gpu_tools.PYTHON = str(warm_python())
    yield
    gpu_tools.PYTHON = real


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, tiny):
    made = Workshop(tmp_path_factory.mktemp("gpu"), "cpu")
    for name in ("vqgan", "maskgit", "inpaint"):
        (made.folder / name).symlink_to(tiny[name])
    return made


@pytest.fixture
def report():
    return Report()


def verdicts(report, verdict):
    return [line["name"] for line in report.lines if line["verdict"] == verdict]


def test_lines_and_summary(report, capsys):
    report.section = "parity"
    report.at_most("a", 1e-5, 1e-4)
    report.at_least("b", 0.5, 0.9, " of all")
    report.info("c", 3.0)
    with report.guard("d"):
        raise ModuleNotFoundError("no diffusers here", name="diffusers")
    with report.guard("e"):
        raise RuntimeError("first line\nlast line")
    assert verdicts(report, "ok") == ["a"]
    assert verdicts(report, "FAIL") == ["b", "e"]
    assert verdicts(report, "skip") == ["d"]
    assert report.summary() == "1 ok, 1 skipped, 2 failed: b, e"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "ok parity a 1e-05 (<= 0.0001)".split()
    assert lines[1].split() == "FAIL parity b 0.5 (>= 0.9 of all)".split()
    assert lines[4].split() == "FAIL parity e last line".split()
    assert json.loads(json.dumps(report.lines))[1]["limit"] == ">= 0.9 of all"
    report.at_most("loss", float("nan"), 1)
    report.at_least("loss", float("nan"), 1)
    assert verdicts(report, "FAIL") == ["b", "e", "loss", "loss"]


def test_the_command(monkeypatch, tmp_path, capsys):
    def broken(report, device, workshop):
        raise RuntimeError("this section is broken")

    monkeypatch.setattr(gpu_parity, "parity", broken)
    args = gpu_check.arguments(["parity", "--device", "cpu", "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(args)
    assert stop.value.code == 1
    assert "1 failed: parity" in capsys.readouterr().out
    # The whole of it with the section that needs no stage: lines, file, last line, exit code.
    out = tmp_path / "gpu.json"
    done = run("tools/gpu_check.py", "memory", "--device", "cpu", "--out", out)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("CPU: ") and lines[-1].endswith("0 failed")
    written = json.loads(out.read_text())
    assert written["machine"]["device"] == "CPU" and set(written["seconds"]) == {"memory"}
    methods = {line["name"].split(",")[0] for line in written["lines"]}
    assert methods == {row[0] for row in gpu_memory.ROWS}
    done = run("tools/gpu_check.py", code=2, env={"CUDA_VISIBLE_DEVICES": ""})
    assert "no GPU is visible" in done.stderr
    assert "docs/costs.md" in run("tools/gpu_check.py --help").stdout


def test_resume(report, workshop, monkeypatch, warm_start):
    chosen = {"03": gpu_ranks.trainings(workshop)["03"]}
    monkeypatch.setattr(gpu_ranks, "trainings", lambda workshop: chosen)
    gpu_ranks.resume(report, CPU, workshop)
    assert verdicts(report, "ok") == ["03: equal to the last bit"]


def test_parity(report, workshop, warm_start):
    gpu_parity.parity(report, CPU, workshop)
    assert not verdicts(report, "FAIL") and not verdicts(report, "skip")
    assert len(verdicts(report, "ok")) >= 40


def test_parity_notices_other_values(report, monkeypatch):
    original = gpu_parity.loss_and_gradient
    calls = []

    def wrong_the_second_time(*args):
        calls.append(args)
        loss, gradient = original(*args)
        return (loss, gradient) if len(calls) % 3 == 1 else (1.1 * loss, -gradient)

    monkeypatch.setattr(gpu_parity, "loss_and_gradient", wrong_the_second_time)
    methods = gpu_parity.registry.METHODS
    monkeypatch.setattr(gpu_parity.registry, "METHODS", {"byol": methods["byol"]})
    gpu_parity.methods(report, CPU)
    assert len(verdicts(report, "FAIL")) == 4
    assert relative(torch.ones(3), torch.ones(3)) == 0


def test_sync_and_speed(report, workshop, monkeypatch, warm_start):
    """A watched training; on a CPU the waits cannot be counted."""
    chosen = {"00 maskgit": gpu_speed.trainings(CPU, workshop)["00 maskgit"]}
    monkeypatch.setattr(gpu_speed, "trainings", lambda device, workshop: chosen)
    gpu_speed.sync(report, CPU, workshop)
    assert len(report.lines) == 1
    gpu_speed.speed(report, CPU, workshop)
    assert not verdicts(report, "FAIL")
    assert all(float(line["value"]) > 0 for line in report.lines[1:])


def test_session(warm_start, tmp_path):
    """A part that fails, here without images to evaluate on, ends nothing; files are left."""
    write_images(tmp_path / "data/train", size=32)
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.symlink_to(gpu_tools.PYTHON)
    results = tmp_path / "results"
    settings = {"DEVICE": "cpu", "TINY": "1", "PARTS": "pretrain", "WORK": str(tmp_path / "work")}
    settings["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    shell("bash", "tools/gpu_session.sh", results, tmp_path / "data", **settings)
    said = (results / "pretrain.txt").read_text()
    assert [said.count(f"ended with {code}") for code in (0, 2)] == [2, 1]
    names = sorted(file.name for file in results.iterdir())
    assert names == ["baseline.jsonl", "control.jsonl", "pretrain.txt"]
    assert "loss" in (results / "baseline.jsonl").read_text()
    settings |= {"ARMS": "oracle", "LATER": "", "SEEDS": "0"}
    study = tmp_path / "study"
    words = [tmp_path / "data", "none", study, "mirrors", "encoders"]
    done = shell("bash", "tools/gpu_study.sh", *words, **settings)
    assert (study / "simclr-oracle-seed0/backbone.pth").exists()
    assert done.stdout.count("failed: 04_linear_eval.py") == 2


def test_make_gpu_installs_nothing():
    """Where all that the check needs is there, it starts without pip."""
    before = (ROOT / ".venv").exists()
    done = shell("make", "gpu", f"PYTHON={sys.executable}", code=2, CUDA_VISIBLE_DEVICES="")
    assert "no GPU is visible" in done.stderr and "pip" not in done.stdout
    assert (ROOT / ".venv").exists() == before
