"""How the process keeps memory on the host."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1


def keep_freed_memory() -> None:
    """Let the allocator keep freed tensors for the next ones instead of handing them back to the system.

    A training step on the CPU frees and allocates the same tensors; faulting their pages in again took a
    third of a ReLU step's time. The process holds on to its peak from now on. Without glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.malloc_trim(0)  # what loading has freed goes back first
        libc.mallopt(M_MMAP_MAX, 0)  # a mapping of its own goes back as soon as it is freed
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
