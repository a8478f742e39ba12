"""DICOM files: shown as they declare, or refused with the reason; what is expected is written out from the standard."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from hybridpt.data.dicom import window
from hybridpt.data.images import UnreadableImage, read_image

Writer = Callable[[Path], object]
Pixels = NDArray[Any]

GREY = (np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) % 251).astype(np.uint8)
WIDE = GREY.astype(np.uint16)
DEEP = WIDE * 200 + 37
TWELVE = WIDE * 16 + 5
RGB = np.stack([GREY] * 3, axis=-1)
UNIT = GREY / np.float32(255)
FULL = (GREY - GREY.min()) / np.float32(np.ptp(GREY))
BITS = np.asarray(GREY > 100)

LARGE = r"20,000 x 20,000 pixels; expected 1 to 80,000,000"
FLAT = "no contrast: all pixels are equal"
BROKEN = "broken or cut short"


def dicom(values: Pixels = DEEP, syntax: str = ExplicitVRLittleEndian, drop: tuple[str, ...] = (), **elements: Any) -> Writer:
    """A file with just what a radiograph needs; ``drop`` takes elements out again."""

    def write(path: Path) -> None:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        dataset.SOPInstanceUID = "1.2.3"
        dataset.PatientName = "secret^patient"
        dataset.Rows, dataset.Columns = values.shape[:2]
        dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
        dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
        if values.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        big = syntax == ExplicitVRBigEndian
        dataset.PixelData = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
        dataset["PixelData"].VR = "OW" if values.dtype.itemsize > 1 else "OB"
        for name, value in elements.items():
            setattr(dataset, name, value)
        for name in drop:
            delattr(dataset, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the broken ones are meant to be
            dataset.save_as(path, enforce_file_format=True)

    return write


def encoded(values: Pixels, syntax: str) -> Writer:
    """A compressed file: Pillow's JPEG for what pydicom does not encode."""

    def write(path: Path) -> None:
        dicom(values)(path)
        dataset = pydicom.dcmread(path)
        if syntax == RLELossless:
            dataset.compress(syntax)
        else:
            buffer = io.BytesIO()
            kind, options = ("JPEG2000", {"no_jp2": True}) if syntax == JPEG2000Lossless else ("JPEG", {"quality": 100})
            Image.fromarray(values).save(buffer, kind, **options)
            dataset.PixelData = encapsulate([buffer.getvalue()])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)

    return write


def table(values: Pixels, first: int = 0, bits: int = 16) -> list[Dataset]:
    """A sequence with one lookup table."""
    item = Dataset()
    item.LUTDescriptor = [len(values) % 2**16, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = [int(v) for v in values]
    item["LUTData"].VR = "US"
    return [item]


def palette(values: Pixels) -> dict[str, Any]:
    """The elements of a palette of 256 greys."""
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        elements[f"{colour}PaletteColorLookupTableData"] = values.astype(np.uint8).tobytes()
    return elements


def linear(values: Pixels, center: float, width: float) -> Pixels:
    """The window as the standard writes it, value by value (PS3.3, C.11.2.1.2.1)."""

    def one(x: float) -> float:
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if x > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (center - 0.5)) / (width - 1) + 0.5

    return np.vectorize(one)(values.astype(np.float64))


INVERTED: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1"}
WINDOW: dict[str, Any] = {"WindowCenter": "100", "WindowWidth": "80"}
HALVED: dict[str, Any] = {"RescaleSlope": "0.5", "RescaleIntercept": "-1000", "WindowCenter": "9000", "WindowWidth": "8000"}
BITS_12: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
LEFT = np.arange(20) < 3
"""The columns of padding."""
PADDED = np.where(LEFT, 65_535, DEEP).astype(np.uint16)
UNPADDED = np.where(LEFT, 0, (DEEP - DEEP[:, 3:].min()) / np.float32(np.ptp(DEEP[:, 3:])))
OVERLAY = (TWELVE | np.where(BITS, 0x8000, 0)).astype(np.uint16)
"""Twelve bits of pixels, and an overlay in the topmost."""
SUNK = np.where(LEFT, np.arange(20) * 10, DEEP).astype(np.uint16)
"""Padding of 0, 10 and 20; the pixels begin at 37."""
SIGNED = GREY.astype(np.int16) * 16 - 2000
UNSIGNED = (SIGNED & 0x0FFF).astype(np.int16)
"""The same in twelve bits, those of the sign not carried on."""
RISING = (np.arange(4096) ** 2 // 4095).astype(np.uint16)
THROUGH = RISING[TWELVE] / np.float32(RISING.max())
COARSE = RISING // 16

READ_DICOM: dict[str, tuple[Writer, Pixels]] = {
    "MONOCHROME2, 16 bit": (dicom(), FULL),
    "MONOCHROME1, 16 bit": (dicom(**INVERTED), 1 - FULL),
    "MONOCHROME1, 8 bit": (dicom(GREY, **INVERTED), 1 - UNIT),
    "8 bit": (dicom(GREY), UNIT),
    "8 bit, signed": (dicom((GREY.astype(np.int16) - 128).astype(np.int8)), UNIT),
    "8 bit with rescale": (dicom(GREY, RescaleSlope="2", RescaleIntercept="-7"), UNIT),
    "12 in 16 bit": (dicom(TWELVE, **BITS_12), FULL),
    "12 bit with an overlay in bit 15": (dicom(OVERLAY, **BITS_12), FULL),
    "signed": (dicom(SIGNED), FULL),
    "12 bit, signed, without the bits of the sign": (dicom(UNSIGNED, **BITS_12), FULL),
    "implicit VR": (dicom(syntax=ImplicitVRLittleEndian), FULL),
    "big-endian": (dicom(syntax=ExplicitVRBigEndian), FULL),
    "rescale with a negative slope": (dicom(RescaleSlope="-1.5", RescaleIntercept="100"), 1 - FULL),
    "modality LUT": (dicom(GREY, ModalityLUTSequence=table(np.arange(255, -1, -1))), 1 - UNIT),
    "window": (dicom(WIDE, **WINDOW), linear(GREY, 100, 80)),
    "window on rescaled values": (dicom(DEEP, **HALVED), linear(DEEP * 0.5 - 1000, 9000, 8000)),
    "the first of two windows": (dicom(WIDE, WindowCenter=["100", "5"], WindowWidth=["80", "2"]), linear(GREY, 100, 80)),
    "window, MONOCHROME1": (dicom(WIDE, **INVERTED, **WINDOW), 1 - linear(GREY, 100, 80)),
    "window LINEAR_EXACT": (dicom(WIDE, VOILUTFunction="LINEAR_EXACT", **WINDOW), np.clip((GREY - 100.0) / 80 + 0.5, 0, 1)),
    "window SIGMOID": (dicom(WIDE, VOILUTFunction="SIGMOID", **WINDOW), 1 / (1 + np.exp(-4 * (GREY - 100.0) / 80))),
    "a window of no width is passed over": (dicom(WindowCenter="100", WindowWidth="0"), FULL),
    "a window without a width is passed over": (dicom(WindowCenter="100"), FULL),
    "VOI LUT": (dicom(TWELVE, VOILUTSequence=table(RISING), **BITS_12), THROUGH),
    "VOI LUT, big-endian": (dicom(TWELVE, ExplicitVRBigEndian, VOILUTSequence=table(RISING), **BITS_12), THROUGH),
    "VOI LUT, implicit VR": (dicom(TWELVE, ImplicitVRLittleEndian, VOILUTSequence=table(RISING), **BITS_12), THROUGH),
    "VOI LUT before the window": (dicom(TWELVE, VOILUTSequence=table(RISING), **WINDOW), THROUGH),
    "VOI LUT of 8 bits, 4,096 entries": (dicom(TWELVE, VOILUTSequence=table(COARSE, bits=8)), COARSE[TWELVE] / np.float32(255)),
    "padding": (dicom(PADDED, PixelPaddingValue=65_535), UNPADDED),
    "padding, MONOCHROME1": (dicom(PADDED, PixelPaddingValue=65_535, **INVERTED), np.where(LEFT, 0, 1 - UNPADDED)),
    "a range of padding": (dicom(PADDED, PixelPaddingValue=65_535, PixelPaddingRangeLimit=60_000), UNPADDED),
    "a range of padding that ends at 0": (dicom(SUNK, PixelPaddingValue=30, PixelPaddingRangeLimit=0), UNPADDED),
    "RGB": (dicom(RGB), UNIT),
    "RGB, 16 bit": (dicom(np.stack([DEEP] * 3, axis=-1)), DEEP / np.float32(65_535)),
    "palette": (dicom(GREY, **palette(255 - np.arange(256))), 1 - UNIT),
    "RLE": (encoded(DEEP, RLELossless), FULL),
    "JPEG": (encoded(GREY, JPEGBaseline8Bit), UNIT),
    "JPEG 2000": (encoded(GREY, JPEG2000Lossless), UNIT),
    "NumberOfFrames of 1": (dicom(NumberOfFrames="1"), FULL),
}


@pytest.mark.parametrize("kind", READ_DICOM)
def test_dicom_is_shown_as_it_declares(tmp_path: Path, kind: str) -> None:
    write, expected = READ_DICOM[kind]
    path = tmp_path / "MONOCHROME1 inverted"  # the name decides nothing
    write(path)
    pixels = read_image(path)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, atol=4 / 255 if kind == "JPEG" else 1e-4)


def unavailable() -> str | None:
    """A compression for which no codec is installed here."""
    names = ("JPEGLosslessSV1", "JPEGLSLossless", "HTJ2KLossless", "JPEGXL")
    known = [uid for name in names if (uid := getattr(pydicom.uid, name, None)) is not None]
    for uid in known:
        try:
            if not get_decoder(uid).is_available:
                return str(uid)
        except NotImplementedError:
            continue
    return None


def without_preamble(path: Path) -> None:
    dicom()(path)
    path.write_bytes(path.read_bytes()[132:])


def shortened(keep: int) -> Writer:
    def write(path: Path) -> None:
        dicom()(path)
        path.write_bytes(path.read_bytes()[:keep])

    return write


def unknown_syntax(path: Path) -> None:
    dicom()(path)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))


def deflated(path: Path) -> None:
    """The data set behind the file's meta information, deflated; here to 50 MB of nothing."""
    dicom(syntax=ExplicitVRLittleEndian)(path)
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.PixelData = bytes(50_000_000)
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path)


REFUSED_DICOM: dict[str, tuple[Writer, str]] = {
    "several frames": (dicom(np.vstack([DEEP] * 3), Rows=24, NumberOfFrames="3"), "several frames or pages"),
    "no pixels": (dicom(drop=("PixelData",)), "a DICOM file without pixels"),
    "empty pixels": (dicom(PixelData=b""), BROKEN),
    "fewer pixels than it declares": (dicom(Rows=4000), BROKEN),
    "20,000 x 20,000": (dicom(Rows=20_000, Columns=20_000), LARGE),
    "no rows": (dicom(Rows=0), "0 pixels"),
    "no declared rows": (dicom(drop=("Rows",)), BROKEN),
    "no photometric interpretation": (dicom(drop=("PhotometricInterpretation",)), BROKEN),
    "an unknown photometric interpretation": (
        dicom(PhotometricInterpretation="MONOCHROME3"),
        "another photometric interpretation",
    ),
    "two values a pixel": (dicom(SamplesPerPixel=2), "2 values a pixel"),
    "more bits stored than allocated": (dicom(BitsStored=20), BROKEN),
    "a palette without a palette": (dicom(GREY, PhotometricInterpretation="PALETTE COLOR"), BROKEN),
    "constant": (dicom(np.full((8, 8), 700, np.uint16)), FLAT),
    "all padding": (dicom(np.full((8, 8), 700, np.uint16), PixelPaddingValue=700), "all pixels are padding"),
    "a window in which nothing shows": (dicom(WindowCenter="-5000", WindowWidth="10"), FLAT),
    "a slope of zero": (dicom(RescaleSlope="0", RescaleIntercept="1"), FLAT),
    "no preamble": (without_preamble, "DICOM with preamble"),
    "cut in the header": (shortened(300), f"{BROKEN}|without pixels"),
    "cut in the pixels": (shortened(1000), BROKEN),
    "the preamble alone": (shortened(132), f"{BROKEN}|without pixels"),
    "deflated": (deflated, "a deflated DICOM file"),
    "an unknown transfer syntax": (unknown_syntax, "a compression that pydicom does not know"),
    "junk where a JPEG should be": (lambda path: junk(path, JPEGBaseline8Bit), "no codec that is installed could decode it"),
}


def junk(path: Path, syntax: str) -> None:
    """Compressed by name, rubbish by content."""
    dicom(GREY)(path)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(range(250)) + b"\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)


@pytest.mark.parametrize("kind", REFUSED_DICOM)
def test_a_dicom_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write, reason = REFUSED_DICOM[kind]
    write(tmp_path / "secret.dcm")
    capfd.readouterr()
    with pytest.raises(UnreadableImage, match=reason) as error:
        read_image(tmp_path / "secret.dcm")
    assert "secret" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_compression_without_codec_names_it_and_says_what_to_install(tmp_path: Path) -> None:
    syntax = unavailable()
    if syntax is None:
        pytest.skip("codecs for every compression are installed")
    junk(tmp_path / "a.dcm", syntax)
    with pytest.raises(UnreadableImage, match=r"compressed as (JPEG|High-Throughput).*pip install 'hybridpt\[dicom\]'"):
        read_image(tmp_path / "a.dcm")


def test_the_window_is_pydicoms(tmp_path: Path) -> None:
    """``apply_windowing`` gives the stored range instead of [0, 1], and is an independent implementation."""
    for function, (center, width) in {"LINEAR": (900.5, 333), "LINEAR_EXACT": (2000, 0.5), "SIGMOID": (1500, 700)}.items():
        values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
        dataset = Dataset()
        dataset.PhotometricInterpretation, dataset.PixelRepresentation, dataset.BitsStored = "MONOCHROME2", 0, 12
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
        expected = apply_windowing(values, dataset) / 4095
        np.testing.assert_allclose(window(values.astype(np.float64), center, width, function), expected, atol=1e-6)


SHIPPED = sorted(p for p in (Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


def test_pydicoms_own_files_are_read_or_refused_with_a_reason() -> None:
    """Real files of many makers and encodings; the same image under several encodings gives the same grey."""
    grey = {}
    for path in SHIPPED:
        try:
            grey[path.stem] = read_image(path)
        except UnreadableImage:
            continue
    assert len(grey) > 20
    for name, pixels in grey.items():
        assert pixels.ndim == 2, name
        assert pixels.min() >= 0, name
        assert pixels.max() <= 1, name
    for name in ("MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit", "MR_small_jp2klossless"):
        np.testing.assert_array_equal(grey[name], grey["MR_small"])


def test_pydicom_is_imported_only_for_dicom(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    dicom()(tmp_path / "a.dcm")
    code = f"""
import sys
from hybridpt.data.images import read_image
read_image({str(tmp_path / "a.png")!r})
print("pydicom" in sys.modules)
read_image({str(tmp_path / "a.dcm")!r})
print("pydicom" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
