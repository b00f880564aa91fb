"""The processes of one run: who this one is, and sums, gathers, gradients and BatchNorm over all.

torchrun starts the processes and gives each its number in the environment. With one process every
function here returns what it was given. On several processes, loss, gradient and statistics are
those of the *global* batch, on GPUs and on CPUs alike. Used by every stage.
"""

import ctypes
import datetime
import functools
import os
import signal
import time

SHARE_GPU = "GCL_SHARE_GPU"  # set to 1: several processes may use one GPU (slow; made for tests)
TIMEOUT = "GCL_TIMEOUT"  # seconds that one collective may take; waiting for slow peers has no limit


# ---------------------------------------------------------------- who is here
def rank():
    """This process's number, 0 to world() - 1."""
    return int(os.environ.get("RANK", 0))


def world():
    """The number of processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank():
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world():
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class _Store:
    """The key-value store that torchrun's processes share; None with one process."""

    store = None
    waits = 0


def join(device, shared_gpu=False):
    """Join the other processes, if torchrun started several. `device`: this process's torch.device.

    NCCL connects GPUs, gloo connects CPUs. NCCL refuses two processes on one GPU, gloo does not.
    """
    if world() == 1:
        return
    import torch
    from torch.distributed.rendezvous import rendezvous

    # Die with torchrun: a process left behind would go on writing to the run's folder.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is Linux's PR_SET_PDEATHSIG
    store, _, _ = next(rendezvous("env://"))
    # torchrun keeps its store when it starts the processes again: nothing in it counts any more.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    _Store.store = torch.distributed.PrefixStore(attempt, store)
    nccl = device.type == "cuda" and not shared_gpu
    torch.distributed.init_process_group(
        "nccl" if nccl else "gloo",
        store=torch.distributed.PrefixStore("collectives", _Store.store),
        rank=rank(),
        world_size=world(),
        timeout=datetime.timedelta(seconds=float(os.environ.get(TIMEOUT, 1800))),
        device_id=device if nccl else None,
    )


def leave():
    """Wait for the slowest process and close the connections: the end is without a warning."""
    barrier()
    if _Store.store is not None:
        import torch

        torch.distributed.destroy_process_group()
        _Store.store = None


def barrier():
    """Wait until every process is here, however long the slowest one takes.

    It counts in the store instead of using a collective, because a collective has a time limit.
    """
    if _Store.store is None:
        return
    _Store.waits += 1
    key = f"barrier {_Store.waits}"
    arrived = _Store.store.add(key, 1)
    while arrived < world():
        time.sleep(0.02)
        arrived = _Store.store.add(key, 0)


def deal(items, name):
    """Yield the items that no other process has taken: each goes to whoever asks first.

    Made for work of unequal length. `name` tells two rounds of dealing apart.
    """
    if _Store.store is None:
        yield from items
        return
    while (number := _Store.store.add(f"deal {name}", 1) - 1) < len(items):
        yield items[number]


class Stop:
    """SIGINT and SIGTERM to any process: all processes stop after the same step.

    number: the signal's, 0 before.
    """

    AHEAD = 8  # steps; no process of a training is so far ahead of another one

    def __init__(self):
        self.number = 0
        self.step = None
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._note)

    def _note(self, number, frame):
        self.number = number

    def end(self):
        """The last step is done: signals end the process at once again."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def due(self, step):
        """True if all processes are to stop after step number `step`."""
        if _Store.store is None:
            return self.number > 0
        if self.number and self.step is None:
            told = f"{self.number} {step + self.AHEAD}"
            _Store.store.compare_set("stop", "", told)  # the first process decides
        if self.step is None and _Store.store.check(["stop"]):
            self.number, self.step = map(int, _Store.store.get("stop").split())
        return self.step is not None and step >= self.step


# ---------------------------------------------------------------- sums and gathers
def all_sum(tensor):
    """The sum of every process's tensor, in place."""
    if world() > 1:
        import torch

        torch.distributed.all_reduce(tensor)
    return tensor


def everyone(value):
    """[the value of process 0, of process 1, ...]: any picklable object, on every process."""
    if world() == 1:
        return [value]
    import torch

    barrier()  # the slowest process may be hours behind
    values = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def union(part):
    """One dict of the processes' dicts, on every process. A key has the same value everywhere."""
    whole = {}
    for other in everyone(part):
        whole |= other
    return whole


def collect(values, rows, n):
    """(n, ...) on every process, from each process's `values` (m, ...) at its `rows` (m,)."""
    whole = values.new_zeros(n, *values.shape[1:])
    whole[rows] = values
    barrier()
    return all_sum(whole)


def full_precision(function):
    """`function(*tensors, **options)` outside autocast, with half-precision tensors as float32."""

    @functools.wraps(function)
    def wrapped(*tensors, **options):
        import torch

        tensors = [t.float() if t.itemsize < 4 else t for t in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*tensors, **options)

    return wrapped


def gather(x):
    """x (b, ...) of every process -> (b * processes, ...) in the order of the ranks; b equal on
    all.

    Differentiable. Every process must compute the same loss of the global batch from the result:
    then the mean over processes, which DistributedDataParallel takes, is the exact gradient.
    """
    return x if world() == 1 else _gather(x.contiguous())


@full_precision
def _gather(x):
    import torch

    parts = [torch.empty_like(x) for _ in range(world())]
    torch.distributed.all_gather(parts, x.detach())
    parts[rank()] = x
    whole = torch.cat(parts)
    if whole.requires_grad:
        # The loss, and so this gradient, is the same on every process: its sum over the processes
        # is `world()` times itself, and needs no communication.
        whole.register_hook(lambda gradient: world() * gradient)
    return whole


# ---------------------------------------------------------------- gradients and BatchNorm
def data_parallel(module, device):
    """The module under DistributedDataParallel, its BatchNorm over all processes; alone: itself.

    Parameters and buffers stay the same objects, so `module` remains the one to save.
    """
    if world() == 1:
        return module
    import torch

    # torch's own BatchNorm over all processes works on GPUs under NCCL. Every process must have
    # equally many rows.
    if torch.distributed.get_backend() == "nccl":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    else:
        for part in module.modules():
            if type(part) in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
                part.__class__ = _global_batchnorm(type(part))
    return torch.nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # they are equal on all processes already
    )


@functools.cache
def _global_batchnorm(kind):
    """A subclass of BatchNorm1d or BatchNorm2d with statistics over the rows of all processes."""
    import torch
    from torch.distributed.nn.functional import all_reduce

    class GlobalBatchNorm(kind):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            return full_precision(self.normalise)(x).to(x.dtype)

        def normalise(self, x):
            others = [d for d in range(x.ndim) if d != 1]
            shape = [1, -1] + [1] * (x.ndim - 2)
            n = x.numel() / x.shape[1] * world()
            mean = all_reduce(x.sum(others)) / n
            centred = x - mean.view(shape)
            variance = all_reduce(centred.square().sum(others)) / n
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            out = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                out = out * self.weight.view(shape) + self.bias.view(shape)
            return out

    return GlobalBatchNorm
