"""Images as radiology departments and other people's disks hold them: read for what they are, or refused with the reason."""

from __future__ import annotations

import csv
import io
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hybridpt.data.images import MAX_PIXELS, UnreadableImage, read_image
from hybridpt.data.transforms import augment, standard
from tests.hostile.hybrid import Hybrid, lines_of, make_hybrid, one_error
from tests.hostile.test_dicom import READ_DICOM

GREY = (np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) % 251).astype(np.uint8)
"""Rows differ from columns, so that a transposed or mirrored image is noticed."""
DEEP = GREY.astype(np.uint16) * 200 + 37
TWELVE = GREY.astype(np.uint16) * 16 + 5
RGB = np.stack([GREY] * 3, axis=-1)
UNIT = GREY / np.float32(255)
FULL = (GREY - GREY.min()) / np.float32(np.ptp(GREY))
"""What a stretched image holds."""
HALF = np.where(np.arange(20) < 10, 0, 255).astype(np.uint8) * np.ones((24, 1), np.uint8)
"""Alpha: the left half is transparent."""
BITS = np.asarray(GREY > 100)

Writer = Callable[[Path], object]
Pixels = NDArray[Any]


def save(image: Image.Image, kind: str, **options: Any) -> Writer:
    return lambda path: image.save(path, kind, **options)


def indexed(transparency: int | None = None) -> Image.Image:
    """A palette that runs backwards, so that an index taken for a grey value is noticed."""
    image = Image.fromarray(255 - GREY).convert("P")
    image.putdata((255 - GREY).ravel().tolist())
    image.putpalette([255 - i // 3 for i in range(768)])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def cmyk() -> Image.Image:
    """Grey as black ink on white."""
    ink = np.zeros((24, 20, 4), np.uint8)
    ink[..., 3] = 255 - GREY
    return Image.fromarray(ink, "CMYK") if sys.version_info < (3, 11) else Image.frombytes("CMYK", (20, 24), ink.tobytes())


def without_adobe(path: Path) -> None:
    """A CMYK JPEG without Adobe's marker: no ink is 0, so the values that Pillow writes are turned round, and the marker goes."""
    buffer = io.BytesIO()
    Image.frombytes("CMYK", (20, 24), (255 - np.frombuffer(cmyk().tobytes(), np.uint8)).tobytes()).save(
        buffer, "JPEG", quality=100
    )
    data = buffer.getvalue()
    start = data.index(b"\xff\xee")
    path.write_bytes(data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :])


def white_is_zero(values: Pixels) -> Writer:
    """A TIFF whose photometric interpretation says that 0 is white."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "TIFF")
        entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
        assert entry in buffer.getvalue()
        path.write_bytes(buffer.getvalue().replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))

    return write


def numpy(values: Pixels) -> Writer:
    return lambda path: path.write_bytes(npy(values))


def npy(values: Pixels) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


READ: dict[str, tuple[Writer, Pixels]] = {
    "PNG 8 bit": (save(Image.fromarray(GREY), "PNG"), UNIT),
    "PNG 1 bit": (save(Image.fromarray(BITS), "PNG"), BITS.astype(np.float32)),
    "PNG 16 bit": (save(Image.fromarray(DEEP), "PNG"), FULL),
    "PNG 12 in 16 bit": (save(Image.fromarray(TWELVE), "PNG"), FULL),
    "PNG RGB": (save(Image.fromarray(RGB), "PNG"), UNIT),
    "PNG RGBA": (save(Image.fromarray(np.dstack([RGB, HALF])), "PNG"), UNIT * (HALF > 0)),
    "PNG LA": (save(Image.fromarray(np.dstack([GREY, HALF]), "LA"), "PNG"), UNIT * (HALF > 0)),
    "PNG palette": (save(indexed(), "PNG"), UNIT),
    "PNG palette with transparency": (save(indexed(3), "PNG", transparency=3), UNIT * (GREY != 252)),
    "PNG grey with a transparent value": (save(Image.fromarray(GREY), "PNG", transparency=9), UNIT * (GREY != 9)),
    "PNG named .jpg": (save(Image.fromarray(GREY), "PNG"), UNIT),
    "JPEG grey": (save(Image.fromarray(GREY), "JPEG", quality=100), UNIT),
    "JPEG RGB": (save(Image.fromarray(RGB), "JPEG", quality=100), UNIT),
    "JPEG progressive": (save(Image.fromarray(GREY), "JPEG", quality=100, progressive=True), UNIT),
    "JPEG CMYK of Adobe, inverted": (save(cmyk(), "JPEG", quality=100), UNIT),
    "JPEG CMYK without Adobe's marker": (without_adobe, UNIT),
    "TIFF 8 bit": (save(Image.fromarray(GREY), "TIFF"), UNIT),
    "TIFF LZW": (save(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"), UNIT),
    "TIFF 16 bit": (save(Image.fromarray(DEEP), "TIFF"), FULL),
    "TIFF 16 bit big-endian": (save(Image.frombytes("I;16B", (20, 24), DEEP.astype(">u2").tobytes()), "TIFF"), FULL),
    "TIFF 32 bit": (save(Image.fromarray(GREY.astype(np.int32) + 2_000_000_000), "TIFF"), FULL),
    "TIFF float": (save(Image.fromarray(GREY.astype(np.float32) - 1000), "TIFF"), FULL),
    "TIFF 1 bit": (save(Image.fromarray(BITS), "TIFF"), BITS.astype(np.float32)),
    "TIFF CMYK": (save(cmyk(), "TIFF"), UNIT),
    "TIFF 8 bit, white is zero": (white_is_zero(GREY), 1 - UNIT),
    "TIFF 16 bit, white is zero": (white_is_zero(DEEP), 1 - FULL),
    "WebP": (save(Image.fromarray(RGB), "WEBP", lossless=True), UNIT),
    "BMP": (save(Image.fromarray(GREY), "BMP"), UNIT),
    "GIF of one frame": (save(Image.fromarray(GREY), "GIF"), UNIT),
    "JPEG 2000": (save(Image.fromarray(GREY), "JPEG2000"), UNIT),
    "PGM": (save(Image.fromarray(GREY), "PPM"), UNIT),
    "npy uint8": (numpy(GREY), UNIT),
    "npy bool": (numpy(BITS), BITS.astype(np.float32)),
    "npy uint16": (numpy(DEEP), FULL),
    "npy int64 far from zero": (numpy(GREY.astype(np.int64) + 10**12), FULL),
    "npy float16": (numpy(GREY.astype(np.float16)), FULL),
    "npy float64": (numpy(GREY.astype(np.float64) * 1e300), FULL),
    "npy big-endian": (numpy(DEEP.astype(">u2")), FULL),
    "npy Fortran order": (numpy(np.asfortranarray(DEEP)), FULL),
    "npy H x W x 1": (numpy(GREY[..., None]), UNIT),
    "npy H x W x 3": (numpy(RGB), UNIT),
    "npy H x W x 3 float": (numpy(RGB.astype(np.float32)), FULL),
}


@pytest.mark.parametrize("kind", READ)
def test_every_kind_gives_the_same_grey(tmp_path: Path, kind: str) -> None:
    write, expected = READ[kind]
    path = tmp_path / ("image.jpg" if "named .jpg" in kind else "image")
    write(path)
    pixels = read_image(path)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    loss = 4 / 255 if "JPEG" in kind and "2000" not in kind else 1.1 / 255
    np.testing.assert_allclose(pixels, expected, atol=loss)


UPRIGHT: list[Callable[[Pixels], Pixels]] = [
    lambda stored: stored,
    np.fliplr,
    lambda stored: np.rot90(stored, 2),
    np.flipud,
    np.transpose,
    lambda stored: np.rot90(stored, -1),
    lambda stored: np.rot90(stored, 2).T,
    np.rot90,
]
"""What the values 1 to 8 of EXIF's orientation say of where row 0 and column 0 of the stored image stand (Exif 2.3, 4.6.4)."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_applied_as_viewers_do(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    Image.fromarray(GREY).save(tmp_path / "turned", kind, exif=exif, **options)
    np.testing.assert_allclose(read_image(tmp_path / "turned"), UPRIGHT[orientation - 1](UNIT), atol=4 / 255)


def test_a_broken_exif_block_does_not_cost_the_image(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), UNIT)


def png_header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """The beginning of a PNG, without any pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 9) + b"IDAT"
    )


def jpeg_header(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def tiff_header(width: int, height: int) -> bytes:
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, height),
        (279, 4, 9),
    ]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0\0\0\0"


def npy_header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def frames(kind: str) -> Writer:
    images = [Image.fromarray(np.roll(GREY, i)) for i in range(3)]
    return lambda path: images[0].save(path, kind, save_all=True, append_images=images[1:])


def cut(kind: str, keep: float = 0.6) -> Writer:
    def write(path: Path) -> None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(path, kind)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return write


def flat(values: Pixels) -> Writer:
    return save(Image.fromarray(values), "PNG")


def packed(kind: bytes) -> Writer:
    """A PNG with a compressed chunk that unpacks to 200 MB."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(GREY).save(buffer, "PNG")
        packer = zlib.compressobj(9)
        body = kind + b"name\0\0" + b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        path.write_bytes(buffer.getvalue()[:33] + chunk + buffer.getvalue()[33:])

    return write


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


LARGE = r"20,000 x 20,000 pixels; expected 1 to 80,000,000"
KIND = "not an image of a kind that is read"
FRAMES = "several frames or pages"
FLAT = "no contrast: all pixels are equal"
NUMBERS = "values that are no numbers"
BROKEN = "broken or cut short"
SHAPE = r"expected real numbers of shape \(H, W\)"

REFUSED: dict[str, tuple[Writer, str]] = {
    "nothing there": (lambda path: None, "No such file"),
    "zero bytes": (lambda path: path.write_bytes(b""), "an empty file"),
    "text": (lambda path: path.write_text("not an image", encoding="utf-8"), KIND),
    "a page of a web site": (lambda path: path.write_text("<html>404</html>", encoding="utf-8"), KIND),
    "an archive": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)), KIND),
    "PostScript": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n(x) run\n"), KIND),
    "a folder": (lambda path: path.mkdir(), "a folder, not a file"),
    "a pipe that nobody writes to": (os.mkfifo, "not a regular file"),
    "a name too long": (lambda path: None, "File name too long"),
    "PNG cut short": (cut("PNG"), BROKEN),
    "JPEG cut short": (cut("JPEG"), BROKEN),
    "TIFF cut short": (cut("TIFF"), BROKEN),
    "GIF cut short": (cut("GIF"), BROKEN),
    "BMP cut short": (cut("BMP"), BROKEN),
    "WebP cut short": (cut("WEBP"), f"{BROKEN}|{KIND}"),
    "JPEG 2000 cut short": (cut("JPEG2000", 0.1), f"{BROKEN}|{KIND}"),
    "PNG of two bytes": (lambda path: path.write_bytes(b"\x89P"), KIND),
    "one pixel": (flat(np.full((1, 1), 7, np.uint8)), FLAT),
    "constant": (flat(np.full((8, 8), 7, np.uint8)), FLAT),
    "constant, 16 bit": (flat(np.full((8, 8), 700, np.uint16)), FLAT),
    "constant colour": (flat(np.full((8, 8, 3), 7, np.uint8)), FLAT),
    "all transparent": (save(Image.fromarray(np.dstack([RGB, HALF * 0])), "PNG"), FLAT),
    "TIFF float with NaN": (save(Image.fromarray(np.where(GREY > 9, np.nan, 1).astype(np.float32)), "TIFF"), NUMBERS),
    "TIFF float with infinity": (save(Image.fromarray(np.where(GREY > 9, np.inf, 1).astype(np.float32)), "TIFF"), NUMBERS),
    "animated GIF": (frames("GIF"), FRAMES),
    "animated PNG": (frames("PNG"), FRAMES),
    "animated WebP": (frames("WEBP"), FRAMES),
    "TIFF of three pages": (frames("TIFF"), FRAMES),
    "JPEG of several pictures (MPO)": (frames("MPO"), f"{FRAMES}|{BROKEN}"),  # older releases of Pillow stumble before they count
    "PNG header of 20,000 x 20,000": (lambda path: path.write_bytes(png_header(20_000, 20_000)), f"{LARGE}|more than 80,000,000"),
    "PNG header of 9,000 x 9,000": (lambda path: path.write_bytes(png_header(9_000, 9_000)), "9,000 x 9,000 pixels"),
    "PNG header of 2 ** 31 - 1 squared": (
        lambda path: path.write_bytes(png_header(2**31 - 1, 2**31 - 1)),
        "more than 80,000,000 pixels",
    ),
    "JPEG header of 20,000 x 20,000": (lambda path: path.write_bytes(jpeg_header(20_000, 20_000)), "more than 80,000,000 pixels"),
    "TIFF header of 20,000 x 20,000": (lambda path: path.write_bytes(tiff_header(20_000, 20_000)), "more than 80,000,000 pixels"),
    "npy header of 20,000 x 20,000": (lambda path: path.write_bytes(npy_header("(20000, 20000)")), BROKEN),
    "npy header of 10 ** 15 values": (lambda path: path.write_bytes(npy_header("(10**15, 2)")), BROKEN),
    "npy whose size overflows": (lambda path: path.write_bytes(npy_header("(4294967296, 4294967296)")), f"{BROKEN}|pixels"),
    "npy, sparse file of 20,000 x 20,000": (lambda path: sparse(path, npy_header("(20000, 20000)"), 20_000**2), LARGE),
    "npy of nothing": (numpy(np.zeros((0, 4), np.uint8)), "0 pixels|broken"),
    "npy with a negative side": (lambda path: path.write_bytes(npy_header("(-1, 4)")), BROKEN),
    "npy of objects": (numpy(np.array([[Bomb()] * 4] * 4, object)), BROKEN),
    "npy with NaN": (numpy(np.where(GREY > 9, np.nan, 1.0)), NUMBERS),
    "npy with infinity": (numpy(np.where(GREY > 9, -np.inf, 1.0)), NUMBERS),
    "npy too wide for its numbers": (numpy(np.where(GREY > 9, -1.7e308, 1.7e308)), NUMBERS),
    "npy constant": (numpy(np.full((8, 8), 3.5)), FLAT),
    "npy of one dimension": (numpy(GREY.ravel()), SHAPE),
    "npy of four dimensions": (numpy(GREY[None, None]), SHAPE),
    "npy of two channels": (numpy(np.dstack([GREY, GREY])), SHAPE),
    "npy of complex numbers": (numpy(GREY.astype(np.complex64)), SHAPE),
    "npy of text": (numpy(np.array([["a", "b"]])), SHAPE),
    "npy of records": (numpy(np.zeros((4, 4), [("a", "u1")])), SHAPE),
    "npy cut short": (lambda path: path.write_bytes(npy(DEEP)[:-8]), BROKEN),
    "npy header cut short": (lambda path: path.write_bytes(npy(DEEP)[:40]), BROKEN),
    "a bomb in zTXt": (packed(b"zTXt"), BROKEN),
    "a bomb in iCCP": (packed(b"iCCP"), BROKEN),
}


def sparse(path: Path, head: bytes, size: int) -> None:
    """A file that promises its size and takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


def refusal(path: Path) -> str:
    """Why an image cannot be used."""
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    return str(error.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write, reason = REFUSED[kind]
    path = tmp_path / ("secret" * (60 if "too long" in kind else 1) + ".png")
    write(path)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of a decoder would reach the terminal, and may quote the file
        assert re.search(reason, why := refusal(path))
    assert "secret" not in why
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", [k for k in REFUSED if "20,000" in k or "10 **" in k or "bomb" in k])
def test_what_is_too_large_is_refused_before_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    REFUSED[kind][0](tmp_path / "large")
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert time.perf_counter() - began < 2


def test_a_whole_image_of_20_000_by_20_000_costs_no_memory(tmp_path: Path) -> None:
    """A process with room for a twentieth of the pixels refuses it, though the file could be decoded."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    code = f"""
import resource
from hybridpt.data.images import UnreadableImage, read_image
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 20_000_000, held + 20_000_000))
try:
    read_image({str(tmp_path / "huge.png")!r})
except UnreadableImage as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "80,000,000" in done.stdout, done.stderr


def test_an_image_of_the_greatest_size_is_not_refused_for_it(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(MAX_PIXELS // 8000, 8000))
    with pytest.raises(UnreadableImage, match=BROKEN):  # it has no pixels, which only the decoder can know
        read_image(tmp_path / "large.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can take its own permission away")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    try:
        os.seteuid(65_534)
        with pytest.raises(UnreadableImage, match="Permission denied"):
            read_image(tmp_path / "a.png")
    finally:
        os.seteuid(0)


# where an image lies


@dataclass(frozen=True)
class Places:
    """A folder of images, another beside it, and one image in each."""

    root: Path
    inside: Path
    outside: Path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "root" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    found = Places(tmp_path / "root", tmp_path / "root" / "images" / "a.png", tmp_path / "elsewhere" / "b.png")
    for path in (found.inside, found.outside):
        Image.fromarray(GREY).save(path)
    return found


def linked(places: Places, target: Path) -> Path:
    (places.root / "link").symlink_to(target)
    return places.root / "link"


LINKS: dict[str, tuple[Callable[[Places], Path], str]] = {
    "a file": (lambda p: p.inside, ""),
    "a link to a file inside": (lambda p: linked(p, p.inside), ""),
    "a linked folder inside": (lambda p: linked(p, p.inside.parent) / "a.png", ""),
    "a file outside": (lambda p: p.outside, "leads out"),
    "a link to a file outside": (lambda p: linked(p, p.outside), "leads out"),
    "a linked folder outside": (lambda p: linked(p, p.outside.parent) / "b.png", "leads out"),
    "a way out through dots": (lambda p: p.root / ".." / "elsewhere" / "b.png", "leads out"),
    "a link to a device": (lambda p: linked(p, Path("/dev/zero")), "leads out"),
    "a link to nothing": (lambda p: linked(p, p.root / "nothing.png"), "No such file"),
    "a link to itself": (lambda p: linked(p, p.root / "link"), "Too many levels"),
    "a folder of a like name": (lambda p: sibling(p), "leads out"),
}


def sibling(places: Places) -> Path:
    other = places.root.with_name("root-of-another")
    other.mkdir()
    return places.outside.rename(other / "b.png")


@pytest.mark.parametrize("case", LINKS)
def test_links_are_followed_inside_the_folders_alone(places: Places, case: str) -> None:
    make, reason = LINKS[case]
    path = make(places)
    if not reason:
        np.testing.assert_array_equal(read_image(path, [str(places.root)]), UNIT)
        return
    with pytest.raises(UnreadableImage, match=reason):
        read_image(path, [str(places.root)])
    if reason == "leads out" and "device" not in case:
        np.testing.assert_array_equal(read_image(path, [str(places.root), str(path.resolve().parent)]), UNIT)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 2), (3, 40_000), (1, 2)])
def test_strips_and_specks_become_standard_images_of_little_memory(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape, np.float32)
    for image in (standard(pixels, 64), augment(pixels, 64, torch.Generator().manual_seed(0))):
        assert image.shape == (1, 64, 64)
        assert image.isfinite().all()


def test_the_centre_of_an_ordinary_image_is_cut_as_it_always_was() -> None:
    """The cut that saves memory begins at four times the shorter side; the grid of other images does not move by a bit."""
    pixels = np.random.default_rng(0).random((40, 160), np.float32)
    wide = np.pad(pixels, ((0, 0), (20, 20)))
    np.testing.assert_allclose(standard(wide, 20), standard(pixels, 20), atol=1e-6)


# a fit with such images among good ones


STRANGE = (
    " leading space.png",
    "two\nlines.png",
    "Übung β 胸.png",
    "-dash.png",
    "100%.png",
    'quo"te,comma;.png',
    "a.b",
    "#1?.png",
)
SPOILED: dict[str, Writer] = {kind: REFUSED[kind][0] for kind in ("text", "PNG cut short", "a folder", "npy of objects")}
SPOILED["a link out of the root"] = lambda path: path.symlink_to("/dev/zero")
HUGE = REFUSED["PNG header of 20,000 x 20,000"][0]


def spoil(path: Path, write: Writer) -> None:
    path.unlink()
    write(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hybrid(tmp_path: Path) -> Hybrid:
    return make_hybrid(tmp_path / "data")


def images_of(hybrid: Hybrid, split: str) -> list[Path]:
    table = pd.read_csv(hybrid.data.manifest)
    return [hybrid.data.root / image for image in table["image"][table["split"] == split]]


def test_a_fit_leaves_unreadable_images_out_counts_and_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five of 600 in train, one of 150 in val: the run goes on. One of 150 in test: scored as if its row were not there."""
    hybrid, run = make_hybrid(tmp_path / "data", studies=900), tmp_path / "run"
    train, val, test = (images_of(hybrid, split) for split in ("train", "val", "test"))
    bad = dict(zip((str(p) for p in train), SPOILED, strict=False))
    for path, kind in bad.items():
        spoil(Path(path), SPOILED[kind])
    spoil(val[0], HUGE)
    spoil(test[0], HUGE)
    table = pd.read_csv(hybrid.data.manifest)
    for old, new in zip(train[10:], STRANGE, strict=False):
        old.rename(old.with_name(new))
        table.loc[table["image"] == f"images/{old.name}", "image"] = f"images/{new}"
    table.to_csv(hybrid.data.manifest, index=False)
    capsys.readouterr()

    assert hybrid.run("fit", run, "--data.batch_size", 32, "--data.num_workers", 2) == 0
    (line,) = lines_of(capsys, "cannot be read")
    assert "6 images cannot be read and were left out (train 5, val 1)" in line
    assert str(run / "quarantine.csv") in line
    named = rows_of(run / "quarantine.csv")
    assert {r["image"]: r["split"] for r in named} == {**dict.fromkeys(bad, "train"), str(val[0]): "val"}
    assert "leads out" in next(r["reason"] for r in named if bad.get(r["image"]) == "a link out of the root")
    assert pd.read_csv(run / "metrics.csv")["val/criterion"].dropna().map(np.isfinite).all()

    before = (run / "quarantine.csv").read_bytes()
    arguments = ["--ckpt_path", run / "best.ckpt", "--data.batch_size", 1, "--data.num_workers", 0]
    assert hybrid.run("test", tmp_path / "with", *arguments) == 0
    (line,) = lines_of(capsys, "cannot be read")
    assert "1 images cannot be read and were left out (test 1)" in line
    assert [r["image"] for r in rows_of(tmp_path / "with" / "test" / "quarantine.csv")] == [str(test[0])]
    assert (run / "quarantine.csv").read_bytes() == before
    assert hybrid.run("predict", tmp_path / "with", *arguments[:4], "--data.batch_size", 1) == 0
    assert set(pd.read_csv(tmp_path / "with" / "predictions.csv")["image"]) == {
        str(hybrid.data.root / image) for image in table["image"]
    } - {*bad, str(val[0]), str(test[0])}
    table = table[table["image"] != f"images/{test[0].name}"]
    table.to_csv(hybrid.data.manifest, index=False)
    assert hybrid.run("test", tmp_path / "without", *arguments) == 0
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / folder / "results.csv") for folder in ("with", "without")))


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 2), ("val", 8)])
def test_too_many_unreadable_images_stop_a_fit(
    hybrid: Hybrid, tmp_path: Path, split: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = images_of(hybrid, split)[:count]
    for path in chosen:
        spoil(path, HUGE)
    assert hybrid.run("fit", tmp_path / "run") == 1
    message = one_error(capsys)
    assert re.search(
        rf"{count} of \d+ images of the split '{split}' cannot be read \(more than 1%; most often: more than 80,000,000", message
    )
    assert {r["image"] for r in rows_of(tmp_path / "run" / "quarantine.csv")} == {str(p) for p in chosen}
    assert not list((tmp_path / "run").glob("*.ckpt"))


def test_one_unreadable_image_stops_a_strict_fit(hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(images_of(hybrid, "val")[0], HUGE)
    assert hybrid.run("fit", tmp_path / "run", "--data.strict", "true") == 1
    assert "1 of 8 images of the split 'val' cannot be read (strict is set" in one_error(capsys)


def test_the_only_image_of_a_split_is_not_done_without(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(hybrid.data.manifest)
    first = table.index[table["split"] == "val"][0]
    table.drop(table.index[(table["split"] == "val") & (table.index != first)]).to_csv(hybrid.data.manifest, index=False)
    spoil(images_of(hybrid, "val")[0], HUGE)
    assert hybrid.run("fit", tmp_path / "run") == 1
    assert "1 of 1 images of the split 'val' cannot be read" in one_error(capsys)


def test_images_on_another_disk_need_their_folder_to_be_named(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images lie elsewhere behind a linked folder: the run stops with the way out in its line, and takes it."""
    disk = tmp_path / "disk"
    (hybrid.data.root / "images").rename(disk)
    (hybrid.data.root / "images").symlink_to(disk)
    assert hybrid.run("fit", tmp_path / "run") == 1
    assert "name the folder that holds the images with --data.image_root" in one_error(capsys)
    assert hybrid.run("fit", tmp_path / "named", "--data.image_root", disk) == 0
    assert not (tmp_path / "named" / "quarantine.csv").exists()
    assert hybrid.run("fit", tmp_path / "wrong", "--data.image_root", tmp_path / "absent") == 1
    assert "expected the folder that holds the images, it is none" in one_error(capsys)


# bytes that nobody meant


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One small file of every kind, to be broken."""
    folder = tmp_path_factory.mktemp("seeds")
    kinds: dict[str, Writer] = {
        k: READ[k][0]
        for k in (
            "PNG 8 bit",
            "PNG palette with transparency",
            "JPEG RGB",
            "TIFF 16 bit",
            "TIFF LZW",
            "WebP",
            "GIF of one frame",
            "BMP",
            "npy uint16",
        )
    }
    kinds |= {f"DICOM {k}": READ_DICOM[k][0] for k in ("MONOCHROME1, 16 bit", "VOI LUT", "RLE", "JPEG", "padding")}
    out = []
    for i, write in enumerate(kinds.values()):
        write(folder / str(i))
        out.append((folder / str(i)).read_bytes())
    return out


@pytest.fixture(scope="module")
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "image"


BUDGET = int(os.environ.get("HYBRIDPT_FUZZ", "300"))
"""Examples of a fuzz test; the variable HYBRIDPT_FUZZ asks for more."""


@settings(max_examples=BUDGET, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_bytes_are_an_image_or_a_reason_and_nothing_else(seeds: list[bytes], anvil: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(seeds)))
    places = data.draw(
        st.lists(st.tuples(st.integers(0, min(len(content), 900) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    )
    for place, value in places:
        content[place] = value
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    anvil.write_bytes(content[:end])
    try:
        pixels = read_image(anvil)
    except UnreadableImage as refused:
        why = str(refused)
    else:
        why = ""
        assert pixels.ndim == 2
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()
        assert 0 <= pixels.min() < pixels.max() <= 1
    assert str(anvil) not in why
