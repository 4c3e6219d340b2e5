"""Ratings as CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path

from analysis.ratings.ratings import Rating, check_rater, now, read_rating
from nca.cli.errors import ConfigError
from nca.cli.options import parse_whole_number, read_text

STUDY = "study"  # column of a table, which may hold several studies


def write_csv(study: str, ratings: Sequence[Rating], file: Path) -> None:
    """Write ratings as a table: the study's name and the fields of a rating."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [STUDY, *(field.name for field in fields(Rating))])
        writer.writeheader()
        writer.writerows({STUDY: study} | asdict(rating) for rating in ratings)


def read_csv(study: str, file: Path, trials: Collection[int]) -> list[Rating]:
    """Return a study's ratings from a table with columns trial and rating; rater, repeat and at are optional.

    Args:
        study: Rows of other studies are skipped if the table has a column study.
        file: The table. Its name is the rater where the column is missing.
        trials: Numbers of the trials that may be rated.

    Raises:
        ConfigError: If a row is invalid, with its line number, or all rows are of other studies.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""))
        missing = [name for name in ("trial", "rating") if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"import={file}: has no column {' and no '.join(missing)}")
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"import={file}: cannot be read ({error})") from error
    own = [(line, row) for line, row in rows if row.get(STUDY, study) == study]
    if rows and not own:
        others = ", ".join(sorted({str(row[STUDY]) for _, row in rows}))
        raise ConfigError(f"import={file}: has ratings of {others}, none of {study}")
    found = []
    for line, row in own:
        try:
            found.append(_read_row(row, file.stem, trials))
        except ConfigError as error:
            raise ConfigError(f"import={file}, line {line}: {error}; nothing was imported") from None
    return found


def _read_row(row: Mapping[str, str | None], rater: str, trials: Collection[int]) -> Rating:
    trial = parse_whole_number(row["trial"] or "")
    repeat, at = row.get("repeat") or "0", row.get("at") or now()
    if trial is None or trial not in trials:
        raise ConfigError(f"trial={row['trial']}: no complete trial of the study has that number")
    if repeat not in {"0", "1"}:
        raise ConfigError(f"repeat={repeat}: must be 0 or 1")
    rating = read_rating("rating", str(row["rating"]))
    try:
        datetime.fromisoformat(at)
    except ValueError:
        raise ConfigError(f"at={at}: must be a time in ISO 8601") from None
    return Rating(trial, check_rater(row.get("rater") or rater), int(repeat), rating, at)
