"""DICOM files to grey pixels in [0, 1], as far as a radiograph needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridpt.data.images import UnreadableImage, check_size, luminance, stretched

__all__ = ["read_dicom"]

TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
]
"""All that is read of a file: no name and no date of a patient ever is."""
ONE_VALUE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
DEFERRED = 1_000_000
"""Elements of more bytes are not read before the header has said that they are wanted."""
DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(path: str | Path) -> NDArray[np.float32]:
    """Read a DICOM file of one frame as grey values, (H, W) float32 in [0, 1].

    The pixels go through modality LUT or rescale, then through the first VOI LUT or window; without one, eight stored bits keep their
    range and deeper ones are stretched from the least to the greatest value. MONOCHROME1 is inverted. Pixels that hold the padding
    value are black and count for nothing else. Colour becomes luminance.

    Raises:
        UnreadableImage: Several frames, too many pixels, no pixels, a compression that needs a codec that is not installed, or an
            unusual kind of colour.
        Exception: Anything that pydicom raises for a broken file.
    """
    import pydicom  # only where a DICOM file comes: it costs a third of a second
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels.processing import apply_color_lut

    if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
        raise UnreadableImage("a deflated DICOM file, whose size cannot be known before it is unpacked; write it again without")
    header = pydicom.dcmread(path, defer_size=DEFERRED, specific_tags=TAGS)
    if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("a DICOM file without pixels")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise UnreadableImage("several frames or pages; write the one that is meant to a file of its own")
    check_size(int(header.Columns), int(header.Rows))
    kind, samples = str(header.PhotometricInterpretation), int(header.get("SamplesPerPixel", 1))
    if samples not in (1, 3):
        raise UnreadableImage(f"{samples} values a pixel; expected 1 or 3")
    if samples == 1 and kind not in ONE_VALUE:
        raise UnreadableImage(f"another photometric interpretation of one value a pixel than {', '.join(ONE_VALUE)}")
    stored = _decoded(header)
    if kind == "PALETTE COLOR":
        colour = apply_color_lut(stored, header)[..., :3]
        return _checked(luminance(colour) / np.iinfo(colour.dtype).max)
    if samples == 3:
        return _checked(luminance(stored) / (2 ** int(header.BitsStored) - 1))
    return _checked(_grey(stored, header, inverted=kind == "MONOCHROME1"))


def _decoded(header: Any) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImage("a compression that pydicom does not know") from None
    if not decoder.is_available:
        raise UnreadableImage(f"compressed as {syntax.name}; install a codec for it: pip install 'hybridpt[dicom]'")
    try:
        return np.asarray(pixel_array(header))
    except RuntimeError:  # pydicom's word for "every codec failed"
        raise UnreadableImage(f"compressed as {syntax.name}, and no codec that is installed could decode it") from None


def _grey(stored: NDArray[Any], header: Any, inverted: bool) -> NDArray[np.float64]:
    from pydicom.pixels.processing import apply_rescale

    padding = _padding(stored, header)
    if padding.all():
        raise UnreadableImage("no contrast: all pixels are padding")
    whole = stored.dtype.kind in "ui"
    if whole:
        unused = 8 * stored.dtype.itemsize - int(header.BitsStored)
        stored = (stored << unused) >> unused  # the bits beyond may hold an overlay; those of a negative number need not be set
    values = np.asarray(apply_rescale(stored, header), np.float64)
    shown = _displayed(values, header)
    if shown is None and whole and int(header.BitsStored) <= 8:
        reach = np.array([[0, 2 ** int(header.BitsStored) - 1]]) - (stored.dtype.kind == "i") * 2 ** (int(header.BitsStored) - 1)
        low, high = np.sort(np.asarray(apply_rescale(reach.astype(stored.dtype), header), np.float64)[0])
        shown = np.clip((values - low) / (high - low), 0, 1)
    if shown is None:
        shown = stretched(np.where(padding, values[~padding].min(), values)).astype(np.float64)
    return np.where(padding, 0.0, 1 - shown if inverted else shown)


def _padding(stored: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Where the padding value, or one of its range, stands."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _displayed(values: NDArray[np.float64], header: Any) -> NDArray[np.float64] | None:
    """Apply the first VOI LUT or window: values to [0, 1]; None where the file has none that can be used."""
    if header.get("VOILUTSequence"):
        return _through_table(values, header.VOILUTSequence[0], header.file_meta.TransferSyntaxUID.is_little_endian)
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return window(values, center, width, function)


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers; None for no number."""
    values = [value] if isinstance(value, str | float | int) else list(value or [])
    return float(values[0]) if values and values[0] is not None else None


def window(values: NDArray[np.float64], center: float, width: float, function: str = "LINEAR") -> NDArray[np.float64]:
    """Apply a window (DICOM PS3.3, C.11.2.1.2): (H, W) to (H, W) in [0, 1].

    Args:
        values: Rescaled values.
        center: Middle of the window.
        width: Its width, at least 1 for ``LINEAR``, above 0 for ``LINEAR_EXACT`` and ``SIGMOID``.
        function: One of these.
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _through_table(values: NDArray[np.float64], item: Any, little_endian: bool) -> NDArray[np.float64]:
    """Apply a lookup table (DICOM PS3.3, C.11.2.1.1); its greatest entry is white, since the bits it declares are often not used."""
    data = item.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * (int(item.LUTDescriptor[0]) or 2**16)
        data = np.frombuffer(data, ("<u2" if little_endian else ">u2") if wide else "u1")
    table = np.asarray(data, np.float64)
    place = np.clip(values - int(item.LUTDescriptor[1]), 0, len(table) - 1)
    return np.asarray(table[np.rint(place).astype(np.int64)] / max(table.max(), 1))


def _checked(grey: NDArray[np.float64]) -> NDArray[np.float32]:
    if not np.isfinite(grey).all():
        raise UnreadableImage("values that are no numbers (NaN or infinite)")
    if grey.min() == grey.max():
        raise UnreadableImage("no contrast: all pixels are equal")
    return grey.astype(np.float32)
