"""gzip in blocks, which tabix and samtools can seek in: BGZF, section 4.1 of the SAM specification."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

_BLOCK = 0xFF00  # bytes of text: compressed they fit into the 64 KiB of a block, whatever they are
_HEADER = struct.Struct("<4BI2BH2BHH")
_TRAILER = struct.Struct("<II")


class BgzfWriter(io.BufferedIOBase):
    """A file to write bytes to; closing it ends the last block and leaves `out` open. Same bytes, same file."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._pending = out, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._pending += data
        while len(self._pending) >= _BLOCK:
            self._add(bytes(self._pending[:_BLOCK]))
            del self._pending[:_BLOCK]
        return len(data)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._pending:
                self._add(bytes(self._pending))
            self._add(b"")  # the mark of a whole file
        finally:
            super().close()

    def _add(self, data: bytes) -> None:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(data) + packer.flush()
        size = _HEADER.size + len(packed) + _TRAILER.size
        self._out.write(_HEADER.pack(31, 139, 8, 4, 0, 0, 255, 6, ord("B"), ord("C"), 2, size - 1))
        self._out.write(packed + _TRAILER.pack(zlib.crc32(data), len(data)))
