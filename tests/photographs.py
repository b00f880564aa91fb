"""Sample photographs for tests."""

import numpy as np
from PIL import Image, ImageOps


def sample_photographs():
    from skimage import data
    from sklearn.datasets import load_sample_images

    colour = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    return [*load_sample_images().images, *colour]


def photographs(shape=(375, 500)):
    """The same, cut to `shape`."""
    fitted = [ImageOps.fit(Image.fromarray(photo), shape[::-1]) for photo in sample_photographs()]
    return list(map(np.asarray, fitted))
