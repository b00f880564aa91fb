"""For the tests of reading: image files made by hand, deep ones, many bands, lying headers."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def png(values, header=None, bits=16):
    """A PNG file by hand: (H, W, bands) values, or a header that lies about the size."""
    height, width, bands = values.shape
    colour_type = {1: 0, 3: 2, 2: 4, 4: 6}[bands]
    header = header or (width, height)
    rows = [b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values]

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *header, bits, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


def jpeg_of_declared_size(width, height):
    data = io.BytesIO()
    Image.fromarray(COLOURS).save(data, "JPEG")
    data = bytearray(data.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(values, **options):
    data = io.BytesIO()
    tifffile.imwrite(data, values, **options)
    return data.getvalue()


TINY = np.zeros((4, 4, 3), np.uint8)
BANDS = RNG.integers(0, 4096, (12, 10, 5)).astype(np.uint16)


def tiff_of_declared_size(side):
    data = tiff(np.zeros((4, 4, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    for tag in (256, 257):  # width and height
        written = struct.pack("<HHII", tag, 4, 1, 4)
        assert written in data
        data = data.replace(written, struct.pack("<HHII", tag, 4, 1, side))
    return data


BIG_TIFF = tiff(BANDS, photometric="minisblack", planarconfig="contig", bigtiff=True)
