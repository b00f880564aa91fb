"""Reading image files of any common kind: uint8 (H, W, 3) RGB. Used by all that reads images."""

import errno
import io
import logging
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from base import levels, run

# What is wrong with a file is said once, with its name, by read_image.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # _check_size knows better

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF and BigTIFF, by byte order
ORIENTATION = 274  # number of a tag in TIFF 6.0 and EXIF
GRAY, RGB = 1, 2  # PhotometricInterpretations in TIFF 6.0
COMPLETE = (b"\xff\xd9", b"IEND\xaeB`\x82")  # last bytes of a whole JPEG, of a whole PNG

LARGE = 2**26  # values of an image; a larger one must have a file to match
VALUES_PER_BYTE = 10_000  # PNG's and TIFF's deflate makes 1,032 bytes of one at most
LARGEST = 2**30  # values of an image; OpenCV takes as many pixels
LOOKED_AT = 100  # TIFF files that are looked at to judge a folder
NOT_ITS_FAULT = {  # errors of the machine or of its network
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
}


class UnreadableImage(OSError):
    """An image cannot be read, and its file is the reason."""


def read_image(path):
    """uint8 (H, W, 3) RGB of an image file.

    Gray is repeated, transparency is laid on white, the camera's rotation is applied. More than 8
    bits are read from TIFF files alone, and scaled as base/levels.py says. Of several pictures in
    one file, it is the first.
    Raises UnreadableImage with the path and the reason, whatever is wrong with the file; a plain
    OSError where the machine or its network is at fault: the file may be sound."""
    try:
        return _decode(Path(path).read_bytes())
    except Exception as error:  # a damaged file makes decoders raise anything, such as zlib.error
        elsewhere = isinstance(error, MemoryError) or getattr(error, "errno", 0) in NOT_ITS_FAULT
        kind = OSError if elsewhere else UnreadableImage
        raise kind(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or not an image file"
    text = error.err if isinstance(error, cv2.error) else str(error)
    if isinstance(error, LookupError) or not text.strip():  # no sentence, but a key, or nothing
        return f"{error!r}"
    return text.strip().splitlines()[0].rstrip(".")


def _decode(data):
    """OpenCV decodes the commonest kinds fast, tifffile many bits and bands, Pillow the others."""
    picture = _deep_tiff(data)
    if picture is None:
        picture = Image.open(io.BytesIO(data))  # its pixels are not read yet
        _check_size(*picture.size, len(picture.getbands()), data)
        if picture.mode[0] in "IF" or picture.format == "PNG" and data[24] == 16:
            raise ValueError("more than 8 bits are read from TIFF files alone: convert it")
        if _is_common(data, picture):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if image is not None:
                return image
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _check_size(width, height, bands, data):
    """Refuse a few bytes that declare an image which would fill the memory."""
    values = width * height * bands
    if values > LARGEST or values > LARGE and values > VALUES_PER_BYTE * len(data):
        raise ValueError(
            f"{width} x {height} pixels of {bands} bands are too many, or do not fit into its "
            f"{len(data)} bytes"
        )


def _is_common(data, picture):
    """Whether it is a whole JPEG or PNG, gray or RGB, without transparency."""
    plain = picture.mode in ("L", "RGB") and not picture.has_transparency_data
    kind = picture.format in ("JPEG", "MPO", "PNG")
    return plain and kind and data.rstrip(b"\0").endswith(COMPLETE)


# ---------------------------------------------------------------- more than 8 bits, many bands
def _deep_tiff(data):
    """Pillow's image, 8 bits a band, of a TIFF file whose values or bands must be chosen.

    None for all other files. Raises levels.Unclear where --levels or --bands do not choose them."""
    if data[:4] not in TIFF:
        return None
    import tifffile

    chosen = levels.bands()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        bands = page.samplesperpixel
        spectral = bands > 2 and page.photometric == GRAY
        if page.dtype in (bool, np.uint8) and bands <= (1 if chosen else 4) and not spectral:
            return None
        height, width = page.imagelength, page.imagewidth
        _check_size(width, height, bands, data)
        values = page.asarray(squeeze=False)  # (planes, 1, height, width, bands of a plane)
        orientation = page.tags.valueof(ORIENTATION, 1)
    if not chosen and (bands in (1, 3) or page.photometric == RGB):
        chosen = range(1, min(bands, 3) + 1)
    if not chosen or max(chosen) > bands:
        raise levels.Unclear(
            f"{bands} bands of {values.dtype}: choose red, green and blue among them, such as "
            f"--bands 3 2 1, or one, such as --bands 1 (or set {levels.BANDS})"
        )
    values = np.moveaxis(values[:, 0], 0, -1).reshape(height, width, bands)
    shown = levels.eight_bits(values[..., [number - 1 for number in chosen]])
    picture = Image.fromarray(shown[..., 0] if len(chosen) == 1 else shown)
    picture.getexif()[ORIENTATION] = orientation
    return picture


# ---------------------------------------------------------------- one rule for a whole folder
def check_values(root, paths):
    """Refuse a folder of TIFF files where nothing says what is white, or which bands are shown.

    Some of its files, evenly spread, are looked at. root: the folder; paths: its images."""
    candidates = [path for path in paths if path.lower().endswith((".tif", ".tiff"))]
    for path in candidates[:: len(candidates) // LOOKED_AT + 1]:
        file = Path(root, path)
        try:
            _deep_tiff(file.read_bytes())
        except levels.Unclear as error:
            run.fail(f"{file}: {error}.", 2)
        except Exception:
            continue  # a damaged file: the stage that reads it names it
