"""JPEG Extended of 12 bits (.4.51), as a decoder that pydicom calls.

pydicom gives such frames to none of its plugins, though GDCM, which is installed, decodes them as DCMTK does (tests
compare them). GDCM's JPEG library says "Unsupported JPEG data precision 12" on standard error before it tries its own
12-bit one; it cannot be silenced and means nothing.
"""

from __future__ import annotations

from typing import Final

import gdcm
from pydicom.pixels.decoders import JPEGExtended12BitDecoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

NAME: Final = "gdcm-12-bit"
"""What a decoder is asked for by `decoding_plugin`."""
DECODER_DEPENDENCIES: Final = {JPEGExtended12Bit: ("gdcm",)}


def is_available(uid: str) -> bool:
    """Whether this decodes that transfer syntax."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """One frame of one sample per pixel, in the container that its header states. Raises RuntimeError."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(src)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            1, runner.bits_allocated, runner.bits_stored, runner.bits_stored - 1, runner.pixel_representation
        )
    )
    # The library gives bytes as text.
    decoded: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(decoded) != runner.frame_length(unit="bytes"):
        raise RuntimeError("GDCM decoded a frame of another size")
    return decoded


# Not safe among threads: once, while modules are loaded.
JPEGExtended12BitDecoder.add_plugin(NAME, (__name__, "decode_frame"))
