"""Standard output and error: what cannot be printed ends nothing but the output."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended; the terminal was closed
STANDARD = {1: "stdout", 2: "stderr"}  # by file descriptor


class _Output(io.FileIO):
    """A standard stream; what the operating system does not take of it is dropped."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes, or keep the reason why they could not be written."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def protect_output() -> None:
    """Replace the standard streams of this process, if it still has its own.

    Letters that their encoding lacks are escaped; after a full disk or a reader that went away, the rest is
    dropped. Descriptors of closed streams lead to /dev/null, as a database could get them otherwise.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= max(STANDARD):
        os.set_inheritable(opened, True)
    os.close(opened)
    for descriptor, name in STANDARD.items():
        before: TextIO | None = getattr(sys, name)
        if before is not getattr(sys, f"__{name}__"):
            continue  # a test or a caller has replaced it
        encoding = "utf-8"
        if before is not None:
            before.flush()
            encoding = before.encoding
        buffer = io.BufferedWriter(_Output(descriptor, "w", closefd=False))
        is_direct = name == "stderr" or buffer.isatty()
        stream = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=is_direct)
        setattr(sys, name, stream)


def lost_output() -> str | None:
    """Return why something could not be printed; None if nothing was lost but what a gone reader left."""
    for name in STANDARD.values():
        stream = getattr(sys, name)
        stream.flush()
        file = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(file, _Output) and file.failure is not None and file.failure.errno not in GONE:
            return f"{name} cannot be written ({file.failure.strerror}); redirect it to another place"
    return None
