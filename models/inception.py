"""The Inception network of the Frechet Inception Distance. Used by 07, through evaluate/frechet.py.

It is TensorFlow's of 2015-12-05 in the port that pytorch-fid publishes, so that values can be
compared with those in the literature.
"""

import torch
import torch.nn.functional as F
from torchvision.models import inception as blocks

from base import run
from base.weights import load_strictly, weight_file


def average_pool(x):
    """TensorFlow's "same" average: what lies outside the image is not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x):
    """The graph's very last block has this where the others have the average."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def replace_pooling(block, pool):
    """Let the last branch of a block see pool(input), not torchvision's average of the input."""

    def keep(block, inputs):
        block.pooled = pool(inputs[0])

    block.register_forward_pre_hook(keep)
    block.branch_pool.register_forward_pre_hook(lambda *_: vars(block).pop("pooled"))


class FIDInception(blocks.Inception3):
    """torchvision's Inception with the pooling of 2015: images -> pool3 features (B, 2048).

    In evaluation mode. `fc` becomes nn.Identity once the weights are loaded.
    """

    width = 2048

    def __init__(self):
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False)
        for name, block in self.named_children():
            if hasattr(block, "branch_pool"):
                replace_pooling(block, max_pool if name == "Mixed_7c" else average_pool)

    def forward(self, stacks):
        """stacks: a list of uint8 (B, H, W, 3), one for each size of images.

        All go through the network as one batch: images of many sizes cost what images of one size
        cost.
        """
        x, _ = self._forward(torch.cat([self.resized(stack) for stack in stacks]))
        return x

    def resized(self, images):
        """uint8 (B, H, W, 3) -> (B, 3, 299, 299) in [-1, 1], not antialiased, as published."""
        x = images.permute(0, 3, 1, 2).float() / 255
        return 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1


def load_inception(path=None):
    """(network in evaluation mode, path of its weights).

    The weights are read from `path`, else from the cache, else from the official address.
    """
    path = path or weight_file("inception")
    state = run.load(path)
    with torch.device("meta"):
        network = FIDInception()
    # Without a plain dict's metadata torch itself adds the counters of BatchNorm that files from
    # before PyTorch 0.4.1 lack.
    load_strictly(network.to_empty(device="cpu"), dict(state), path)
    network.fc = torch.nn.Identity()
    return network, path
