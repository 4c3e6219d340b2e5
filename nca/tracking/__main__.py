"""`python -m nca.tracking deliver`: send what waits on disk for an MLflow server that was away."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nca.cli.options import read_options, read_places
from nca.config.validation import ConfigError, exit_on_error
from nca.tracking.outbox import find_outboxes
from nca.tracking.store import MlflowStore, one_line

__all__ = ["main"]

USAGE = "python -m nca.tracking deliver tracking.uri=http://HOST:PORT [runs_dir=mlruns]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Deliver and say what was delivered; exit code 2 where the server still does not take it.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(OSError):
        if words[:1] != ["deliver"]:
            raise ConfigError(f"say deliver: {USAGE}")
        options = read_options(words[1:], ("runs_dir", "tracking.uri"), USAGE, "tracking.uri")
        places = read_places(options)
        trials, uri = places.runs / "trials", options["tracking.uri"]
        waiting = find_outboxes(trials, uri)
        if not waiting:
            print(f"nothing in {trials} waits for {uri}")
            return
        with one_line(uri):
            n_left = MlflowStore(uri).deliver(trials)
        if n_left:
            raise ConfigError(f"tracking.uri={uri}: still away; {n_left} records wait in {trials}")
        print(f"delivered what {len(waiting)} runs had kept for {uri}")


if __name__ == "__main__":
    main()
