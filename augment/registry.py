"""The strategies of stage 02 by name (dissertation, chapter 4).

A strategy of one's own is one more entry: `STRATEGIES["mine"] = Entry(...)`. Used by
02, and by report/, which times them and tells which settings differ.
"""

from functools import partial

from augment import diffusion, noise, painting, real_images
from augment.strategy import Entry

STRATEGIES = {
    "inpaint": Entry(
        "Mask tokens, predict them with MaskGIT: the dissertation's best strategy.",
        painting.inpaint_arguments,
        painting.inpaint,
    ),
    "outpaint": Entry(
        "Shrink, lay on a blank canvas, predict the surroundings with MaskGIT.",
        painting.outpaint_arguments,
        painting.outpaint,
    ),
    "noise": Entry("Encode, draw new noise, generate with IC-GAN.", noise.arguments, noise.noise),
    "diffusion": Entry(
        "Add noise, denoise with SDXL-Turbo and a caption.",
        diffusion.diffusion_arguments,
        diffusion.diffusion,
    ),
    "crop": Entry(
        "Crop at random and resize: hand-crafted, no model.",
        real_images.size_argument,
        partial(real_images.handcrafted, "crop"),
    ),
    "jitter": Entry(
        "Change brightness, contrast, saturation and hue: hand-crafted, no model.",
        real_images.size_argument,
        partial(real_images.handcrafted, "jitter"),
    ),
    "blur": Entry(
        "Blur with a Gaussian: hand-crafted, no model.",
        real_images.size_argument,
        partial(real_images.handcrafted, "blur"),
    ),
    "same-class": Entry(
        "Take another real image of the same class: a ceiling, because it uses the labels.",
        real_images.other_arguments,
        real_images.same_class,
    ),
    "neighbour": Entry(
        "Take the real image that an encoder finds most similar.",
        real_images.neighbour_arguments,
        real_images.neighbour,
    ),
}
