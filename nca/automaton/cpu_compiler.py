"""The compiler of the loops for a CPU, and where their machine code is kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

from nca.automaton.cpu_strips import FASTMATH, REGISTER_BYTES

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel, *, inline: bool = False) -> Kernel:
    """Compile a function at its first call, and keep the machine code on disk if there is a folder for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FASTMATH)}
    options["forceinline"] = inline
    config: Any = numba.config
    before = config.CACHE_DIR
    folder = cache_folder(before)
    config.CACHE_DIR = folder or before
    try:
        kernel: Kernel = numba.njit(cache=folder is not None, **options)(function)
    finally:
        config.CACHE_DIR = before
    return kernel


def inlined(function: Kernel) -> Kernel:
    """Compile a function as a part of those that call it: a call costs more than a few strips."""
    return compiled(function, inline=True)


@functools.cache
def cache_folder(given: str) -> str | None:
    """Return a folder for machine code of these sources alone, whose imports Numba's cache does not check.

    Without a folder each trial of a sweep compiles its loops again, for 5 to 16 s on one core.

    Args:
        given: The value of NUMBA_CACHE_DIR; empty for a folder in the user's cache.

    Returns:
        The folder, among temporary files if the user's cache cannot be written; None if there is none at all.
    """
    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("cpu_*.py")))
    name = hashlib.sha256(sources + bytes([REGISTER_BYTES])).hexdigest()[:16]
    for find_base in (functools.partial(_user_cache, given), _temporary_cache):
        with contextlib.suppress(OSError, RuntimeError):  # a full or read-only disk, or no home folder
            folder = find_base() / name
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # as Numba tries it
            return str(folder)
    return None


def _user_cache(given: str) -> Path:
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nca-sweep"


def _temporary_cache() -> Path:
    """Return a folder among temporary files, for code to be executed.

    Raises:
        PermissionError: If another user made it, or can write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"nca-sweep-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} may be another user's")
    return folder
