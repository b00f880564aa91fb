"""For the tests of reading: image files made by hand, deep ones, many bands, damaged ones."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageOps

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
DAMAGED = {
    "empty.jpg": b"",
    "text.jpg": b"no image",
    "page.jpg": b"<html><body>404 not found</body></html>",
    "bomb.png": png(TINY, (60000, 60000), 8),
    "wide.png": png(TINY, (2**31 - 1, 1), 8),
    "largest.png": png(TINY, (2**31 - 1, 2**31 - 1), 8),
    "nothing.png": png(TINY, (0, 0), 8),
    "deep_bomb.png": png(TINY.astype(np.uint16), (60000, 60000)),
    "cut.png": png(COLOURS, bits=8)[:200],
    "crc.png": png(COLOURS, bits=8).replace(b"IDAT", b"IDAX"),
    "bomb.jpg": jpeg_of_declared_size(65500, 65500),
    "smaller_bomb.jpg": jpeg_of_declared_size(9000, 9000),
    "smaller_bomb.png": png(TINY, (9000, 9000), 8),
    "smaller_bomb.tif": tiff_of_declared_size(9000),
    "cut.tif": tiff(COLOURS)[:-300],
    "cut_bands.tif": BIG_TIFF[:-300],
    "tags.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    "header.tif": b"II*\0\x08\0\0\0",
    "bomb.tif": tiff_of_declared_size(2**20),
    "header.bmp": b"BM" + b"\0" * 60,
    "cut.gif": b"GIF89a\x01\0\x01\0",
    "cut.webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "cut.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "cut.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "text.ppm": b"P6\n-3 4\n255\n",
    "header.ico": b"\0\0\x01\0\xff\xff" + b"\xff" * 30,
    "header.psd": b"8BPS\0\x01" + b"\0" * 40,
    "header.dds": b"DDS |\0\0\0" + b"\xff" * 130,
    "header.sgi": b"\x01\xda\x01\x01" + b"\xff" * 600,
    "header.icns": b"icns\0\0\0\x10ic07\0\0\0\x08",
    "header.fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80),
    "header.qoi": b"qoif" + b"\xff" * 12,
}


def sample_photographs():
    from skimage import data
    from sklearn.datasets import load_sample_images

    colour = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    return [*load_sample_images().images, *colour]


def photographs(shape=(375, 500)):
    """The same, cut to `shape`."""
    fitted = [ImageOps.fit(Image.fromarray(photo), shape[::-1]) for photo in sample_photographs()]
    return list(map(np.asarray, fitted))
