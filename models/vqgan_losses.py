"""What a tokenizer is trained with beside the L1 distance: VGG-16 features and a discriminator.

Images are float (B, 3, H, W) in [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import nn

from base import parallel, run
from base.weights import load_strictly, weight_file


class Perceptual(nn.Module):
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its learned weights.

    The mean squared distance of channel-normalised VGG-16 features after conv1_2, conv2_2, conv3_3,
    conv4_3 and conv5_3.
    """

    def __init__(self):
        super().__init__()
        from torchvision.models import vgg16

        vgg = vgg16()
        load_strictly(vgg, run.load(weight_file("vgg16")), "VGG-16")
        ends = [0, 4, 9, 16, 23, 30]
        slices = [vgg.features[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.slices = nn.ModuleList(slices)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x, y):
        x = (x - self.mean) / self.std
        y = (y - self.mean) / self.std
        total = 0
        for part in self.slices:
            x = part(x)
            y = part(y)
            difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            total = total + difference.square().sum(1).mean()
        return total


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit for each patch of the image.

    GroupNorm stands in place of BatchNorm, so that real and generated images, and the processes, do
    not see each other.
    """

    def __init__(self, width=64, layers=3):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        stack = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(layers):
            stride = 2 if i < layers - 1 else 1
            stack += [
                nn.Conv2d(widths[i], widths[i + 1], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(min(32, widths[i] // 2), widths[i + 1]),
                nn.LeakyReLU(0.2),
            ]
        stack.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*stack)

    def forward(self, images):
        return self.layers(images)


def hinge_loss(real, generated):
    """The discriminator's loss from its logits of real and of generated images."""
    return (F.relu(1 - real).mean() + F.relu(1 + generated).mean()) / 2


def adaptive_weight(reconstruction_loss, generator_loss, last_layer):
    """VQGAN, equation 7: the ratio of the two losses' gradients at the decoder's last layer.

    The gradients are those of the whole batch: DistributedDataParallel averages what `backward`
    accumulates, but not what `autograd.grad` returns.
    """
    norms = []
    for loss in (reconstruction_loss, generator_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        mean = parallel.all_sum(gradient) / parallel.world()
        norms.append(mean.norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
