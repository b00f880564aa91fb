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


class InceptionA(blocks.InceptionA):
    def forward(self, x):
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionC(blocks.InceptionC):
    def forward(self, x):
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionE(blocks.InceptionE):
    pool = staticmethod(average_pool)

    def forward(self, x):
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, 1)


class FIDInception(blocks.Inception3):
    """torchvision's Inception with the pooling of 2015: images -> pool3 features (B, 2048)."""

    width = 2048

    def __init__(self):
        ours = [
            blocks.BasicConv2d,
            InceptionA,
            blocks.InceptionB,
            InceptionC,
            blocks.InceptionD,
            InceptionE,
            blocks.InceptionAux,
        ]
        super().__init__(
            num_classes=1008, aux_logits=False, inception_blocks=ours, init_weights=False
        )
        self.Mixed_7c.pool = max_pool

    def forward(self, images):
        """images: uint8 (B, H, W, 3) of any size, or a list of such tensors, one for each size.

        A list goes through the network as one batch: images of many sizes cost what images of one
        size cost.
        """
        stacks = images if isinstance(images, list) else [images]
        x = torch.cat([self.resized(stack) for stack in stacks])
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

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
    # Files from before PyTorch 0.4.1 lack the counters of BatchNorm, which evaluation does not use.
    names = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    counters = {name: torch.tensor(0) for name in names}
    network = load_strictly(network.to_empty(device="cpu"), counters | dict(state), path)
    return network.eval(), path
