"""Records of a run that its MLflow server has not taken yet, on disk and in order."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.worker import write_atomically

__all__ = ["Outbox", "Record", "find_outboxes"]

RECORD_FILE = "record.json"
DATA = "data"
RUN_FILE = "run"  # holds the run's id

Record = dict[str, Any]  # JSON; `kind` says what it is


class Outbox:
    """The records, each in a folder of its own, numbered; it is there only while it holds some.

    One process at a time uses it: whoever holds the run's folder.

    Args:
        folder: The run's.
        uri: Of the MLflow store; each has an outbox of its own.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder / name_outbox(uri)

    def __len__(self) -> int:
        return len(self._entries())

    @property
    def run_id(self) -> str | None:
        """The run's; None where it is not known, or still to be created."""
        note = self._folder / RUN_FILE
        return note.read_text() if note.exists() else None

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / RUN_FILE, run_id)

    def append(self, record: Record, data: Path | None, run_id: str | None) -> None:
        """Append a record with a copy of its files; it is there whole or not at all.

        Raises:
            OSError: If the disk is full.
        """
        number = max((int(entry.name) for entry in self._entries()), default=0) + 1
        partial = self._folder / f"{number:08d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if data is not None:
            shutil.copytree(data, partial / DATA)
        (partial / RECORD_FILE).write_text(json.dumps(record))
        if run_id is not None:
            self.run_id = run_id
        Path(partial).rename(self._folder / f"{number:08d}")

    def __iter__(self) -> Iterator[tuple[Path, Record, Path | None]]:
        """Yield each record with its place and the folder of its files, the oldest first."""
        for entry in self._entries():
            data = entry / DATA
            yield entry, json.loads((entry / RECORD_FILE).read_text()), data if data.exists() else None

    def drop(self, entry: Path) -> None:
        """Forget a record that was delivered; the last one takes the outbox with it."""
        gone = entry.with_suffix(".partial")
        Path(entry).rename(gone)
        shutil.rmtree(gone)
        if not self._entries():
            shutil.rmtree(self._folder)

    def _entries(self) -> list[Path]:
        return sorted(entry for entry in self._folder.glob("*") if entry.name.isdecimal())


def name_outbox(uri: str) -> str:
    """Return the name of the folder in which records for an MLflow store wait."""
    return f"outbox-{zlib.crc32(uri.encode()):08x}"


def find_outboxes(folder: Path, uri: str) -> list[Path]:
    """Return the folders below one, itself among them, whose runs have records that wait for a store."""
    return sorted({entry.parents[2] for entry in folder.glob(f"**/{name_outbox(uri)}/*/{RECORD_FILE}")})
