"""The CT slices that receivers are measured with: of invented patients, every UID another."""

import os
import struct
from pathlib import Path

from dicom_bridge.stream import EXPLICIT_LE, part10_header

SLICES = 300
SIDE = 512
CT = "1.2.840.10008.5.1.4.1.1.2"


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian."""
    if vr in (b"OW", b"OB"):
        return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def ct_slice(folder: int, index: int, pixels: bytes) -> bytes:
    """A CT slice of an invented patient, with the attributes that a scanner writes."""
    root = f"2.25.770000{folder:04}"
    uid = f"{root}.3.{index + 1}"
    text = (
        (0x0008, 0x0005, b"CS", "ISO_IR 100"),
        (0x0008, 0x0008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        (0x0008, 0x0016, b"UI", CT),
        (0x0008, 0x0018, b"UI", uid),
        (0x0008, 0x0020, b"DA", "20260401"),
        (0x0008, 0x0030, b"TM", "080000"),
        (0x0008, 0x0050, b"SH", f"TEST{folder}"),
        (0x0008, 0x0060, b"CS", "CT"),
        (0x0008, 0x0070, b"LO", "TEST Phantom Works"),
        (0x0008, 0x103E, b"LO", "Thorax 1.0"),
        (0x0010, 0x0010, b"PN", "TEST^Phantom"),
        (0x0010, 0x0020, b"LO", "TEST-0001"),
        (0x0010, 0x0030, b"DA", "19560101"),
        (0x0010, 0x0040, b"CS", "O"),
        (0x0018, 0x0015, b"CS", "CHEST"),
        (0x0018, 0x0050, b"DS", "1.0"),
        (0x0018, 0x0060, b"DS", "120"),
        (0x0018, 0x1030, b"LO", "TEST protocol"),
        (0x0020, 0x000D, b"UI", f"{root}.1"),
        (0x0020, 0x000E, b"UI", f"{root}.2"),
        (0x0020, 0x0010, b"SH", "TEST1"),
        (0x0020, 0x0011, b"IS", "3"),
        (0x0020, 0x0013, b"IS", str(index + 1)),
        (0x0020, 0x0032, b"DS", f"-250\\-250\\{index}.0"),
        (0x0020, 0x0037, b"DS", "1\\0\\0\\0\\1\\0"),
        (0x0020, 0x0052, b"UI", f"{root}.4"),
    )
    numbers = ((0x0010, SIDE), (0x0011, SIDE), (0x0100, 16), (0x0101, 16), (0x0102, 15), (0x0103, 1))
    parts = [element(group, number, vr, value.encode("ascii")) for group, number, vr, value in text]
    parts += [element(0x0028, 0x0002, b"US", struct.pack("<H", 1)), element(0x0028, 0x0004, b"CS", b"MONOCHROME2")]
    parts += [element(0x0028, number, b"US", struct.pack("<H", value)) for number, value in numbers]
    parts += [element(0x7FE0, 0x0010, b"OW", pixels)]
    return part10_header(CT, uid, EXPLICIT_LE, "") + b"".join(parts)


def write_slices(root: Path, folders: int, slices: int = SLICES) -> None:
    """One folder of slices for each association; every UID is another."""
    pixels = os.urandom(SIDE * SIDE * 2)
    for folder in range(folders):
        where = root / str(folder)
        where.mkdir(parents=True)
        for index in range(slices):
            (where / f"{index:04}.dcm").write_bytes(ct_slice(folder, index, pixels))
