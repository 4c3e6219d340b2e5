"""Small pictures and the check of error messages that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nca.cli.errors import ConfigError

SIDE = 32


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def checkered() -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, : SIDE // 2] = (200, 20, 10)
    pixels[:, SIDE // 2 :] = (10, 30, 210)
    return Image.fromarray(pixels)


def assert_one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text
