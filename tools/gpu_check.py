"""Does this machine's GPU give what a CPU gives, in its memory, without waiting?

    make gpu
    python tools/gpu_check.py parity memory              only these sections
    GCL_GPU_GIB=23 python tools/gpu_check.py memory      as if the card had 23 GiB
    python tools/gpu_check.py --device cpu               tiny: do the checks themselves run?

parity   the same weights and inputs on the CPU and on the GPU, in float32 and in bf16: losses,
         gradients, colour, optimizers, MaskGIT's and IC-GAN's published values, captions, FID
ranks    two processes under torchrun: every stage, every stage once more, the loss of one process,
         a process that is killed, a process that is slow
memory   real training steps of every method at full size: what they take against what is counted
         before, and a training that cannot fit is refused in one sentence
sync     how often a training step waits for the GPU, and how many kernels it starts
speed    the loader and the training step, apart and together; the card's two peaks to scale by
resume   trainings that are killed twice and continued, with deterministic algorithms: equal to the
         last bit

Each line is a verdict (ok, FAIL, skip, or info for a value without a limit), the section, the name,
the value and its limit. All lines go to gpu.json
as well, each as soon as it is there. The last line counts them. Exit code 1
if a line failed. A package that is not installed makes skips. One GPU is enough: two processes then
share it, over gloo instead of NCCL.

Its CPU form is tested. docs/costs.md has what one H200 answered.
"""

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # for a start as a file

from gpu_tools import Report, Workshop

from base import cli, run, run_folder

SECTIONS = {  # name: its file and function
    "parity": ("gpu_parity", "parity"),
    "ranks": ("gpu_ranks", "ranks"),
    "memory": ("gpu_memory", "memory_of_steps"),
    "sync": ("gpu_speed", "sync"),
    "speed": ("gpu_speed", "speed"),
    "resume": ("gpu_ranks", "resume"),
}


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        default="all",
        choices=["all", *SECTIONS],
        help="sections of the list above; all of them if none is named",
    )
    p.add_argument(
        "--device",
        default="cuda",
        choices=["cuda", "cpu"],
        help="cpu: tiny sizes, to test the checks themselves",
    )
    p.add_argument("--out", default="gpu.json", metavar="FILE", help="where all lines are written")
    p.add_argument("--folder", metavar="FOLDER", help="keep all runs here, to look at them")
    return p.parse_args(argv)


def prepare(args):
    """The torch.device, set up as for a stage."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    if args.device == "cuda" and torch.cuda.device_count() < 2:
        os.environ["GCL_SHARE_GPU"] = "1"
    torch.manual_seed(0)
    return run.start(args)


def machine(device):
    """What the lines were measured on."""
    import torch

    about = run_folder.versions()
    about["device"] = "CPU"
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
        about["GiB"] = torch.cuda.get_device_properties(device).total_memory / 2**30
        about["GCL_GPU_GIB"] = os.environ.get("GCL_GPU_GIB")
    return about


def main(args):
    device = prepare(args)
    about = machine(device)
    report = Report(args.out, about)
    print(f"{about['device']}, torch {about['torch']}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        workshop = Workshop(args.folder or temporary, args.device)
        for section in SECTIONS if "all" in args.sections else args.sections:
            report.section = section
            begin = time.monotonic()
            with report.guard(section):
                file, function = SECTIONS[section]
                module = importlib.import_module(file)
                getattr(module, function)(report, device, workshop)
            report.ended(time.monotonic() - begin)
    took = ", ".join(f"{section} {value:.0f} s" for section, value in report.seconds.items())
    print(f"{args.out} is written ({took})")
    print(f"{about['device']}: {report.summary()}")
    raise SystemExit(1 if report.count("FAIL") else 0)


if __name__ == "__main__":
    main(arguments())
