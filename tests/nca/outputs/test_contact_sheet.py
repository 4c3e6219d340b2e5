"""The contact sheet of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nca.outputs.contact_sheet import make_contact_sheet


def test_a_contact_sheet_shows_the_first_of_each_picture_in_order(tmp_path: Path) -> None:
    for index in range(12):
        Image.fromarray(np.full((16, 34, 3), 10 * index, np.uint8)).save(tmp_path / f"{index}.png")
    entries = [(tmp_path / f"{index}.png", f"trial {index}") for index in range(13)]
    sheet = np.asarray(make_contact_sheet(entries))
    assert sheet.shape == (2 * 152 + 8, 10 * 136 + 8, 3)
    assert [int(sheet[8 + 64, 8 + 136 * column + 64, 0]) for column in range(10)] == list(range(0, 100, 10))
    assert [int(sheet[8 + 152 + 64, 8 + 136 * column + 64, 0]) for column in range(3)] == [100, 110, 255]
    assert (sheet[8 + 128 : 8 + 152, 8:136] < 128).any()  # a caption
    assert make_contact_sheet([(tmp_path / "none.png", "")]).size == (144, 160)
