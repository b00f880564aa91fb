"""Runs a stage as it is, but with deterministic algorithms, or with some of its steps watched.

    python tools/gpu_patch.py deterministic 03_pretrain.py ARGUMENTS
    python tools/gpu_patch.py watch steps.json 03_pretrain.py ARGUMENTS

Steps are told by the batches that the stage asks for, so --workers must be 0. The file then says,
for the steps from FIRST to LAST: how often a step waited for the GPU and where, how many kernels it
started, and how many values it read back from a tensor.
"""

import os
import runpy
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for a start as a file
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else cuBLAS is not deterministic

import torch

from base import run

FIRST = 4
LAST = 12


def deterministic():
    start = run.start

    def start_deterministic(args):
        device = start(args)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
        return device

    run.start = start_deterministic


class Watch:
    """What the steps from FIRST to LAST do."""

    def __init__(self, file):
        self.file = file
        self.waits = []
        self.profiler = None

    def begin(self):
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.synchronize()
            warnings.simplefilter("always")
            warnings.showwarning = self.notice
        self.profiler = torch.profiler.profile(activities=activities)
        self.profiler.start()
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")

    def notice(self, message, category, filename, lineno, *more):
        if "called a synchronizing" in str(message):
            self.waits.append(f"{Path(filename).name}:{lineno}")

    def end(self):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        self.profiler.stop()
        kernels = 0
        read_back = 0
        for event in self.profiler.events():
            on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
            if on_gpu and not event.name.startswith(("Memcpy", "Memset")):
                kernels += 1
            if event.name == "aten::_local_scalar_dense":
                read_back += 1
        steps = LAST - FIRST
        report = {
            "waits": len(self.waits) / steps,
            "where": sorted(set(self.waits)),
            "kernels": kernels / steps,
            "read back": read_back / steps,
        }
        run.write_json(self.file, report)


def watch(file):
    batches = run.batches
    watched = Watch(file)

    def counted(*args):
        for number, batch in enumerate(batches(*args)):
            if number == FIRST and watched.profiler is None:
                watched.begin()
            if number == LAST and not Path(file).exists():
                watched.end()
            yield batch

    run.batches = counted


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "deterministic":
        deterministic()
    else:
        watch(words.pop(0))
    sys.argv = words
    sys.path.insert(0, str((ROOT / words[0]).parent))
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")
