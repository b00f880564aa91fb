"""Published weight files: several processes fetch one, cut and changed files, strict loading."""

import http.server
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, sentence, sentences

from base import weights

CONTENT = np.random.default_rng(0).bytes(300_000)
FETCH = """
import sys
from base import weights
weights.PUBLISHED["x"] = sys.argv[1] + "/x.bin"
print(weights.weight_file("x"))
"""


class Server(http.server.ThreadingHTTPServer):
    """Sends CONTENT slowly, under any path; counts how often it was asked; can break off."""

    asked = 0
    sent = len(CONTENT)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for begin in range(0, self.server.sent, 30_000):
            self.wfile.write(CONTENT[begin : min(begin + 30_000, self.server.sent)])
            time.sleep(0.02)

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # where the network is behind a proxy
    server = Server(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    """An empty cache, and a published file "x" that the server sends."""
    monkeypatch.setenv("GCL_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setitem(weights.PUBLISHED, "x", f"{server.address}/x.bin")
    return tmp_path / "cache"


def visible(folder):
    return sorted(file.name for file in folder.iterdir() if file.name[0] != ".")


def test_several_processes_fetch_a_file(server, cache):
    command = [sys.executable, "-c", FETCH, server.address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    how = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **how) for _ in range(3)]
    for process in processes:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert said.splitlines()[-1] == str(cache / "x.bin")
    assert (cache / "x.bin").read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == ["x.bin"]
    asked = server.asked
    assert weights.weight_file("x") == cache / "x.bin" and server.asked == asked


def test_a_damaged_answer_leaves_nothing(server, cache, capsys, monkeypatch):
    server.sent = 100_000
    assert "got only 100000 out of 300000 bytes" in sentence(capsys, weights.weight_file, "x")
    assert visible(cache) == []
    server.sent = len(CONTENT)
    assert weights.weight_file("x").read_bytes() == CONTENT
    monkeypatch.setitem(weights.PUBLISHED, "x", f"{server.address}/x-0123abcd.pth")
    assert "is damaged" in sentence(capsys, weights.weight_file, "x")
    assert visible(cache) == ["x.bin"]
    (cache / "x-0123abcd.pth").write_bytes(CONTENT)
    said = sentence(capsys, weights.weight_file, "x")
    assert str(cache / "x-0123abcd.pth") in said and "delete it" in said


def test_what_cannot_be_fetched_is_named_and_tried_elsewhere(cache, capsys, monkeypatch, server):
    monkeypatch.setitem(weights.PUBLISHED, "x", "http://127.0.0.1:9/weights/x.bin")
    said = sentence(capsys, weights.weight_file, "x")
    for part in ("x.bin is not in", str(cache), "http://127.0.0.1:9/weights/x.bin", "$GCL_WEIGHTS"):
        assert part in said
    with monkeypatch.context() as patch:
        patch.setenv("GCL_WEIGHTS", "/dev/null/no folder")
        assert "/dev/null/no folder" in sentence(capsys, weights.weight_file, "x")
    monkeypatch.setitem(weights.PUBLISHED, "x", "http://127.0.0.1:9/x.bin")
    monkeypatch.setitem(weights.SECOND, "x", "http://127.0.0.1:9/elsewhere/x.bin")
    said = sentence(capsys, weights.weight_file, "x")
    assert ":9/x.bin (" in said and "or http://127.0.0.1:9/elsewhere/x.bin (" in said
    monkeypatch.setitem(weights.SECOND, "x", f"{server.address}/elsewhere/x.bin")
    assert weights.weight_file("x").read_bytes() == CONTENT
    assert all(weights.cached(name).name in weights.SECOND[name] for name in weights.SECOND)

    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(weights.Path, "home", nowhere)
    assert weights.weight_file("x") == cache / "x.bin"


def test_loading_is_strict(capsys):
    state = torch.nn.Linear(3, 2).state_dict()
    module = weights.load_strictly(torch.nn.Linear(3, 2), state, "file.pth")
    assert torch.equal(module.weight, state["weight"])
    assert not module.training and not module.weight.requires_grad

    def said(changed):
        words = (torch.nn.Linear(3, 2), state | changed, "file.pth")
        return sentences(capsys, weights.load_strictly, *words, code=1)[-1]

    assert 'Unexpected key(s) in state_dict: "other"' in said({"other": torch.zeros(1)})
    shapes = said({"weight": torch.zeros(2, 4)})
    assert "size mismatch for weight" in shapes and "[2, 4]" in shapes and "[2, 3]" in shapes
    assert "not finite in bias: it is damaged" in said({"bias": torch.tensor([0.0, torch.nan])})
    many = [f"more{i:02}" for i in range(11)]
    assert "more07 and 3 more:" in sentence(capsys, weights.refuse, "x", "lacks", many, "it is cut")
    del state["bias"]
    assert said({}).startswith("file.pth is not a checkpoint of this model: ")
    assert 'Missing key(s) in state_dict: "bias"' in said({})
