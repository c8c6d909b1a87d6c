"""The arrays of an .npz file mapped into memory: of a gigabyte of pictures only the rows that are read are loaded."""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from modelkeep.types import Array

LOCAL = struct.Struct("<26xHH")
"""The head of a member (PKWARE, APPNOTE.TXT, 4.3.7): its name and extra field, of so many bytes, precede its data."""
EXTRA, ZIP64 = struct.Struct("<HH"), 20
"""The head of a part of an extra field; and the bytes of that which zipfile adds for large members."""
PADDING, ALIGN = 0xD935, 64
"""What Android's zipalign calls the part that fills up; engines want numbers to begin at a multiple of their size."""
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The next member of an archive, to be written with ``force_zip64``: what follows its .npy header is aligned."""
    info = zipfile.ZipInfo(name)
    before = archive.start_dir + LOCAL.size + len(name.encode()) + EXTRA.size + ZIP64
    info.extra = EXTRA.pack(PADDING, -before % ALIGN) + bytes(-before % ALIGN)
    return info


def load(path: Path) -> dict[str, Array]:
    """What ``numpy.load`` gives, without a copy; the arrays cannot be written to, and the file must not change.

    An array that is compressed, empty, not aligned (see ``member``) or of Python objects is read as usual. Raises what
    ``numpy.load`` raises.
    """
    with np.load(path, allow_pickle=False) as archive, path.open("rb") as file:
        stored = {info.filename: info for info in archive.zip.infolist() if info.compress_type == zipfile.ZIP_STORED}
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = {}
        for name in archive.files:
            info = stored.get(f"{name}.npy")
            array = None if info is None else _mapped(file, info, memory)
            found[name] = archive[name] if array is None else array
    return found


def _mapped(file: IO[bytes], info: zipfile.ZipInfo, memory: mmap.mmap) -> Array | None:
    file.seek(info.header_offset)
    file.seek(sum(LOCAL.unpack(file.read(LOCAL.size))), 1)
    begin = file.tell()
    header: Any = HEADERS.get(npy.read_magic(file))
    if header is None:
        return None
    shape, fortran, dtype = header(file)
    start, size = file.tell(), dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if dtype.hasobject or not size or start % ALIGN or start + size != begin + info.file_size:
        return None
    return np.ndarray(shape, dtype, memory, start, order="F" if fortran else "C")
