from __future__ import annotations

import pytest

from tests import forked


@pytest.fixture(autouse=True)
def _libraries_are_loaded() -> None:
    forked.load()
