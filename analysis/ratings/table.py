"""Ratings as CSV tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path

from analysis.ratings.ratings import LARGEST, RATER, Rating, now
from nca.cli.errors import ConfigError

__all__ = ["read_csv", "write_csv"]

STUDY = "study"  # column of a table, which may hold several studies


def write_csv(study: str, ratings: Sequence[Rating], file: Path) -> None:
    """Write ratings as a table with a head, the study's name in front."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [STUDY, *(field.name for field in fields(Rating))])
        writer.writeheader()
        writer.writerows({STUDY: study} | asdict(rating) for rating in ratings)


def read_csv(study: str, file: Path, trials: Iterable[int]) -> list[Rating]:
    """Return a study's ratings of a table: columns trial and rating, and rater, look and at if it has them.

    Args:
        study: Of a table with a column study its lines are taken, of others all.
        file: The table.
        trials: Numbers that may be rated.

    Raises:
        ConfigError: If a line is none, with its number, or all are of other studies.
    """
    known = set(trials)
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            missing = [name for name in ("trial", "rating") if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"import={file}: has no column {' and no '.join(missing)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"import={file}: cannot be read ({error})") from error
    ours = [_read_row(file, line, row, known) for line, row in rows if row.get(STUDY, study) == study]
    if rows and not ours:
        others = ", ".join(sorted({str(row[STUDY]) for _, row in rows}))
        raise ConfigError(f"import={file}: has ratings of {others}, none of {study}")
    return ours


def _read_row(file: Path, line: int, row: Mapping[str, str | None], known: set[int]) -> Rating:
    def refuse(name: str, allowed: str) -> ConfigError:
        return ConfigError(
            f"import={file}, line {line}: {name}={row.get(name)}: {allowed}; nothing was imported"
        )

    trial, look = row["trial"] or "", row.get("look") or "0"
    if not trial.isdecimal() or int(trial) not in known:
        raise refuse("trial", "no complete trial of the study has that number")
    if look not in {"0", "1"}:
        raise refuse("look", "must be 0 or 1")
    try:
        rating = float(row["rating"] or "")
    except ValueError:
        rating = math.nan
    if not 0 <= rating <= LARGEST:
        raise refuse("rating", f"must be a number from 0 to {LARGEST}")
    rater = row.get("rater") or file.stem
    if not RATER.fullmatch(rater):
        raise refuse("rater", "must be 1 to 40 letters, digits, spaces, dots, _ and -")
    at = row.get("at") or now()
    try:
        datetime.fromisoformat(at)
    except ValueError:
        raise refuse("at", "must be a time in ISO 8601") from None
    return Rating(int(trial), rater, int(look), rating, at)
