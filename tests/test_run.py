"""What every stage stands on: errors as sentences, devices, files, the run folder, the meter."""

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import pytest
import torch
from conftest import ROOT, sentence, shell, warm_python
from conftest import run as start

from base import cli, parallel, run, run_folder
from base.training import Meter


def said(capsys, main, args=None, code=1):
    return sentence(capsys, run.launch, main, args or argparse.Namespace(), code=code)


FULL_GPU = "24 GiB...GPU's memory is full...--batch-size...--grad-checkpoint"
CLOSED = "lost its connection to another process...the same command continues"
ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x'. Free some space"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x"), "/data/x'."),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), "missing...--workers 0"),
    (OSError(errno.EROFS, "Read-only file system"), "missing...--workers 0"),
    (OSError(errno.ENOSYS, "Function not implemented"), "missing...--workers 0"),
    (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), "--workers 0"),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "Free some space"),
    (OSError(errno.EMFILE, "Too many open files", "/data/x"), "ulimit -n...--workers"),
    (RuntimeError("Too many open files. Communication with the workers"), "ulimit -n"),
    (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    (RuntimeError("unable to allocate shared memory(shm) for file"), "--ipc=host"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "--workers 0"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "memory is full"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is full"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "computer's memory is full"),
    (MemoryError("Unable to allocate 1.00 EiB for an array"), "EiB...memory is full"),
    (MemoryError(), "MemoryError...memory is full"),
    (RuntimeError("Storage size calculation overflowed with sizes=[1]"), "memory is full...--size"),
    (RuntimeError("Could not determine home directory."), "directory...HOME...GCL_WEIGHTS"),
    (torch.OutOfMemoryError("CUDA out of memory. GPU 0 has a total capacity of 24 GiB."), FULL_GPU),
    (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]"), CLOSED),
]


@pytest.mark.parametrize("error, words", ERRORS, ids=[str(e)[:30] for e, _ in ERRORS])
def test_errors_from_outside_are_sentences(capsys, error, words):
    def main(args, device):
        raise error

    found = said(capsys, main)
    assert re.search(".*".join(map(re.escape, words.split("..."))), found)
    if "Free" not in words and "same command" not in words:
        assert "the same command continues" not in found


def test_names_must_be_utf8():
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "set PYTHONUTF8=1." in start("07_metrics.py check .", code=2, env=env, cold=True).stderr


def test_a_signal_while_a_checkpoint_is_written(capsys, monkeypatch, tmp_path):
    write = torch.save
    monkeypatch.setattr(torch, "save", lambda *a: [os.kill(os.getpid(), 15), write(*a)])
    file = tmp_path / "x.pth"
    found = said(capsys, lambda args, device: run.save(file, {"a": 1}), code=143)
    assert "Stopped by SIGTERM" in found and run.load(file) == {"a": 1}


def test_our_own_faults_stay_tracebacks():
    def main(args, device):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run.launch(main, argparse.Namespace())


NUMBERS = [
    (cli.fraction, ["0", "1"], ["-0.1", "1.5", "nan"]),
    (cli.from_zero, ["0", "1e9"], ["-1", "nan", "inf"]),
    (cli.above_zero, ["1e-9"], ["0", "nan", "inf"]),
    (cli.positive, ["1", "2147483647"], ["0", "2147483648", "9" * 20]),
    (cli.zero_or_more, ["0", "2147483647"], ["-1", "2147483648", "9" * 20]),
]


@pytest.mark.parametrize(("kind", "good", "bad"), NUMBERS)
def test_numbers_that_are_refused(kind, good, bad):
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not"):
            kind(text)


def test_devices_that_are_not_there_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = argparse.Namespace(device="cuda")
    assert "no GPU is visible" in said(capsys, lambda args, device: None, args, code=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    args = argparse.Namespace(device="auto")
    found = said(capsys, lambda args, device: None, args, code=2)
    assert "4 processes" in found and "--nproc_per_node=2" in found


def open_run(out, inputs=None, **arguments):
    args = argparse.Namespace(out=str(out), **arguments)
    return run_folder.open_run(args, "stage", "result.json", ("pace",), inputs)


def test_a_run_folder_belongs_to_one_command(tmp_path, capsys, monkeypatch):
    out = open_run(tmp_path / "x", {"weights": "abc"}, seed=0, pace=1)
    assert run_folder.run_arguments(out)["seed"] == 0
    assert open_run(out, {"weights": "abc"}, seed=0, pace=2) == out, "some arguments may change"

    def refused(folder, weights, seed):
        return sentence(capsys, partial(open_run, pace=1, seed=seed), folder, {"weights": weights})

    assert "--seed was 0, now 1" in refused(out, "abc", 1)
    assert "weights was abc, now xyz" in refused(out, "xyz", 0)
    (out / "checkpoint.pth").write_text("")  # another writer ended just before the lock, killed
    monkeypatch.setattr(run_folder, "lock", lambda path: (out / "result.json").write_text("{}"))
    assert open_run(out, {"weights": "abc"}, seed=0, pace=1) is None
    monkeypatch.undo()
    assert not (out / "checkpoint.pth").exists()
    assert "is finished" in capsys.readouterr().out
    assert refused(out, "xyz", 0)  # also of a finished run
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    assert refused(tmp_path / "other", "abc", 0)


def test_paths_and_moved_images(tmp_path, monkeypatch):
    """A path may be written in another way, from another folder; images may have been moved."""
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("weights")
    monkeypatch.chdir(tmp_path)
    images = {"list of images": "abc"}
    out = open_run(tmp_path / "x", images, init="weights", generated=["a/b"], data="old")
    monkeypatch.chdir("other")
    assert open_run(out, images, init="../link", generated=["../a/../a/b"], data="new") == out
    for change in ({"init": "weights2"}, {"generated": []}, {"data": "new"}):
        flags = {"init": "../link", "generated": ["../a/b"], "data": "old", **change}
        with pytest.raises(SystemExit):
            open_run(out, {"list of images": "abd"} if "data" in change else images, **flags)


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    out = open_run(tmp_path / "x")
    run_folder.log(out, event="step", step=1)
    run_folder.save_checkpoint(out, step=1)
    run_folder.log(out, event="step", step=2)
    assert run_folder.load_checkpoint(out)["step"] == 1
    assert [line["step"] for line in run_folder.read_log(out, "step")] == [1]
    (out / "log.jsonl").unlink()  # a deleted log is begun anew, the checkpoint is used
    assert open_run(out) == out
    assert run_folder.load_checkpoint(out)["step"] == 1
    assert run_folder.read_log(out, "step") == []
    assert len(run_folder.read_log(out, "start")) == 1


def test_files_are_written_whole_and_read_from_anywhere(tmp_path, capsys):
    name = "字" * 82 + ".json"  # 251 bytes
    run.write_json(tmp_path / name, {"a": 1})
    assert json.loads((tmp_path / name).read_text()) == {"a": 1}
    with pytest.raises(ZeroDivisionError), run.atomic(tmp_path / name) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert json.loads((tmp_path / name).read_text()) == {"a": 1}
    assert len(os.listdir(tmp_path)) == 1, "no temporary file is left"
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert run.read_text(tmp_path / "list.txt").splitlines() == ["a", "b"]
    torch.save({"x": argparse.Namespace(a=1)}, tmp_path / "x.pth")
    assert "would run code" in sentence(capsys, run.load, tmp_path / "x.pth")


def test_meter_means_and_the_first_bad_step(capsys):
    meter = Meter()
    for step, value in enumerate((1.0, 3.0)):
        meter.add(step, {"loss": torch.tensor(value)})
    again = Meter(meter.state)
    assert again.read() == {"loss": 2.0} and again.state == {}
    for step, value in enumerate((1.0, float("nan"), 2.0)):
        meter.add(step + 5, {"loss": torch.tensor(value), "other": torch.tensor(1.0)})
    assert not meter.finite()
    assert "Step 6: loss is not finite" in sentence(capsys, meter.read)
    # On the meta device a value cannot be read: nothing but `read` and `finite` does.
    meter = Meter()
    for step in range(3):
        meter.add(step, {"loss": torch.ones((), device="meta")})
    assert meter.state["loss"][1] == 3


def worker(folder):
    """One of two processes: what it has shared with the other one, in a file of its number."""
    parallel.join(torch.device("cpu"))
    rank = parallel.rank()
    if rank == 1:
        time.sleep(10)  # longer than a collective may take
    rows = torch.arange(rank, 5, 2)
    found = {
        "everyone": parallel.everyone({"rank": rank}),
        "collect": parallel.collect(10.0 * rows, rows, 5).tolist(),
        "sum": parallel.all_sum(torch.tensor([1.0, rank])).tolist(),
        "dealt": list(parallel.deal(range(20), "items")),
    }
    meter = Meter()
    meter.add(0, {"loss": torch.tensor(float(rank))})
    resumed = Meter(parallel.everyone(meter.state)[0])  # a checkpoint is written by process 0
    resumed.add(1, {"loss": torch.tensor(10.0 * rank)})
    found["meter"] = resumed.read()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        network = parallel.data_parallel(torch.nn.Linear(2, 2), torch.device("cpu"))
    network(torch.ones(1, 2) * rank).sum().backward()
    found["gradient"] = network.module.weight.grad.tolist()
    parallel.barrier()
    run.write_json(f"{folder}/{rank}.json", found)
    parallel.leave()


def restarted(folder):
    """One of two processes, of which one ends at once when torchrun has just begun."""
    parallel.join(torch.device("cpu"))
    for item in parallel.deal("abcd", "items"):
        first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        os._exit(1) if first_time else run.write_text(f"{folder}/{item}", "")
    parallel.leave()


def test_processes_that_are_started_again(tmp_path):
    torchrun = f"-m torch.distributed.run --standalone --nproc_per_node=2 --max-restarts=1 {ROOT}/"
    shell(sys.executable, *f"{torchrun}tests/otherwise.py test_run:restarted {tmp_path}".split())
    assert sorted(os.listdir(tmp_path)) == list("abcd"), "what was dealt before is dealt again"


def test_processes_share_and_wait(tmp_path):
    words = ("tests/otherwise.py test_run:worker", tmp_path)
    start(*words, processes=2, env={"GCL_TIMEOUT": "8"})
    first, second = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for found in (first, second):
        assert found["everyone"] == [{"rank": 0}, {"rank": 1}]
        assert found["collect"] == [0, 10, 20, 30, 40] and found["sum"] == [2, 1]
        assert found["meter"] == {"loss": (0.5 + 5) / 2}
        assert found["gradient"] == [[0.5, 0.5], [0.5, 0.5]]
    assert sorted(first["dealt"] + second["dealt"]) == list(range(20)), "each item once"
    x = torch.ones(3)
    assert parallel.all_sum(x) is x and parallel.gather(x) is x
    assert parallel.everyone(1) == [1] and list(parallel.deal([3, 4], "x")) == [3, 4]
    module = torch.nn.Linear(2, 2)
    assert parallel.data_parallel(module, torch.device("cpu")) is module


WRITER = """
import argparse, os, sys, time
sys.path.insert(0, sys.argv[1])
from base import run, run_folder
def main(args, device):
    run_folder.write_or_check(sys.argv[2], {"stage": "x", "args": {}}, "a run folder")
    print("writing", os.getpid(), flush=True)
    time.sleep(float(sys.argv[3]))
run.launch(main, argparse.Namespace())
"""


@pytest.fixture
def writer(tmp_path):
    """Function (seconds) -> a process that writes one folder for so long, once it has begun."""
    (tmp_path / "writer.py").write_text(WRITER)
    running = []

    def start(seconds):
        words = [warm_python(), tmp_path / "writer.py", ROOT, tmp_path / "out/args.json", seconds]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(list(map(str, words)), **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()


def test_a_second_writer_and_a_signal(writer):
    first = writer(60)
    _, number = first.stdout.readline().split()
    second = writer(0)
    said = second.communicate()[1]
    assert second.returncode == 1 and f"is being written by process {number} of" in said
    first.kill()  # its lock goes with it
    first.communicate()
    assert writer(0).communicate()[1] == ""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = writer(60)
        assert process.stdout.readline().startswith("writing")
        process.send_signal(number)
        said = process.communicate()[1]
        assert process.returncode == 128 + number
        assert said.startswith(f"Stopped by {number.name}.") and said.count("\n") == 1


def test_closed_streams_are_no_hindrance(tmp_path):
    (tmp_path / "writer.py").write_text(WRITER)
    words = [sys.executable, tmp_path / "writer.py", ROOT, tmp_path / "out/args.json", "0"]
    for closed in ("2>&-", ">&- 2>&-"):
        line = " ".join(map(str, words)) + " " + closed
        assert subprocess.run(["bash", "-c", line]).returncode == 0
    assert (tmp_path / "out/args.json").exists()
