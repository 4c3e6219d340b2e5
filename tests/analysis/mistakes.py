"""Mistakes on the command line of an entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


def expect_refusal(
    main: Callable[[Sequence[str]], None],
    argv: Sequence[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Give an entry point a command that it must refuse in one line, with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1
