"""Records of a run that wait on disk, in order, while its MLflow server is unavailable."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.files import write_atomically

RECORD_FILE = "record.json"
DATA = "data"
RUN_FILE = "run"  # holds the run's id

Record = dict[str, Any]  # JSON; its `kind` names the method that sends it


class Outbox:
    """The pending records, each in a numbered folder; its own folder exists only while there are any.

    Only the process that holds the run's folder uses it.

    Args:
        folder: The run's.
        uri: Of the MLflow store; each has an outbox of its own.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder / name_outbox(uri)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[tuple[Path, Record, Path | None]]:
        """Yield the folder of each record, the record and the folder of its files, the oldest first."""
        for entry in self._entries():
            data = entry / DATA
            yield (
                entry,
                json.loads((entry / RECORD_FILE).read_text(encoding="utf-8")),
                data if data.exists() else None,
            )

    @property
    def run_id(self) -> str | None:
        """The run's id; None if nothing is pending or the run is still to be created."""
        file = self._folder / RUN_FILE
        return file.read_text(encoding="utf-8") if file.exists() else None

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        write_atomically(self._folder / RUN_FILE, run_id)

    def append(self, record: Record, data: Path | None, run_id: str | None) -> None:
        """Append a record of a run with a copy of its files, completely or not at all.

        Raises:
            OSError: If the disk is full.
        """
        number = max((int(entry.name) for entry in self._entries()), default=0) + 1
        partial = self._folder / f"{number:08d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if run_id is not None:
            self.run_id = run_id
        if data is not None:
            shutil.copytree(data, partial / DATA)
        (partial / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")
        partial.rename(partial.with_suffix(""))

    def remove(self, entry: Path) -> None:
        """Remove a delivered record, and with the last one the outbox."""
        removed = entry.with_suffix(".partial")
        entry.rename(removed)
        shutil.rmtree(removed)
        if not self._entries():
            shutil.rmtree(self._folder)

    def _entries(self) -> list[Path]:
        return sorted(entry for entry in self._folder.glob("*") if entry.name.isdecimal())


def name_outbox(uri: str) -> str:
    """Return the name of the folder in which records for an MLflow store wait."""
    return f"outbox-{zlib.crc32(uri.encode()):08x}"


def find_outboxes(folder: Path, uri: str) -> list[Path]:
    """Return the folders of runs in a folder, itself included, that have pending records for a store."""
    return sorted({entry.parents[2] for entry in folder.glob(f"**/{name_outbox(uri)}/*/{RECORD_FILE}")})
