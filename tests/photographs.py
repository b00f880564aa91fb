"""Sample photographs for tests."""

import numpy as np
from PIL import Image, ImageOps


def photographs(shape=(375, 500)):
    """Sample photographs, cut to `shape`."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    photos = [
        *load_sample_images().images,
        skimage.data.astronaut(),
        skimage.data.coffee(),
        skimage.data.chelsea(),
        skimage.data.rocket(),
    ]
    return [np.asarray(ImageOps.fit(Image.fromarray(photo), shape[::-1])) for photo in photos]
