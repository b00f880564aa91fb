"""How much GPU memory and work a training step needs: counted beforehand, without computing.

Imported by the scripts that make tables of it and by tests: put the project's folder and tools/ on
sys.path. The step runs on fake tensors, which have a shape and a type and no data. What is counted
is every tensor that is alive. CUDA, cuDNN and NCCL need memory of their own, tensors leave gaps,
and the other processes' embeddings are not counted: CONTEXT stands for these, and is a guess.
"""

import contextlib
import copy
import math
import os
import weakref

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from models.resnet import checkpoint_stages

GIB = 2**30
CONTEXT = 0.5  # GiB that CUDA takes in any case


# ---------------------------------------------------------------- counting
class Held(TorchDispatchMode):
    """Bytes of the tensors made inside it: `now` those alive, `most` the largest `now` so far."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.notice(leaf)
        return out

    def notice(self, tensor):
        """Count the tensor's storage, which it may share with others, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            self.change(storage.nbytes())
            weakref.finalize(storage, self.change, -storage.nbytes())

    def change(self, size):
        self.now += size
        self.most = max(self.most, self.now)


def count_step(model, build_optimizer, crops, bf16=True, grad_checkpoint=False):
    """GiB of one training step of a method (models/registry.py), as 03_pretrain.py does it.

    model: the method, on the CPU; it stays as it is. build_optimizer(model): its optimizer.
    crops: (shapes of the views, shapes of the local crops), each shape (b, 3, H, W).
    Returns a dict. "state": what is there between two steps (weights, momenta, gradients).
    "kept": what the forward pass keeps for the backward pass. "peak": the most at any time.
    """
    fake, model = _fake_copy(model, grad_checkpoint)
    with fake, Held() as held, _alone():
        for tensor in [*model.parameters(), *model.buffers()]:
            held.notice(tensor)
        optimizer = build_optimizer(model)
        for _ in range(2):  # only the second step begins with momenta
            state = held.now
            views, local = _crops(crops)
            before = held.now
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(views, local, model.freeze)[0]
            kept = held.now - before
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            model.before_update(model.freeze)
            optimizer.step()
            model.after_update(0.5)
            del loss, views, local
    return {"state": state / GIB, "kept": kept / GIB, "peak": held.most / GIB}


def count_flop(model, crops, grad_checkpoint=False):
    """Floating-point operations of the forward and backward pass of such a step."""
    fake, model = _fake_copy(model, grad_checkpoint)
    countable = sdpa_kernel(SDPBackend.MATH)  # attention as two matrix products
    with fake, FlopCounterMode(display=False) as flops, _alone(), countable:
        model(*_crops(crops), model.freeze)[0].backward()
    return flops.get_total_flops()


def _fake_copy(model, grad_checkpoint):
    """(the mode in which fake tensors live, a copy of the model that is made of them)."""
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        model = copy.deepcopy(model)
    if grad_checkpoint:
        checkpoint_stages(model.backbone)
    if hasattr(model, "queue_start"):
        model.queue_start = math.inf  # fake tensors cannot say whether SwAV's queue is full
    return fake, model


def _crops(shapes):
    views, local = shapes
    return [_crop(shape) for shape in views], [_crop(shape) for shape in local]


def _crop(shape):
    return torch.empty(shape).contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def _alone():
    """Inside it this process is the only one: fake tensors cannot be sent to others."""
    names = ("RANK", "WORLD_SIZE")
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


# ---------------------------------------------------------------- checking
def crop_shapes(args, images):
    """The crops of a step of 03_pretrain.py with `images` images a process."""
    views = [(images, 3, args.size, args.size)] * (1 + args.views)
    local = [(images, 3, args.local_size, args.local_size)] * args.local_crops
    return views, local


def gpu_gib(device):
    """GiB of this GPU, or $GCL_GPU_GIB where that is less."""
    total = torch.cuda.mem_get_info(device)[1] / GIB
    return min(total, float(os.environ.get("GCL_GPU_GIB", total)))
