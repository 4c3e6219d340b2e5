"""The figures of README.md and docs/background.md show what the text says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nca.automaton.model import plain_rollout
from nca.outputs.model_file import load_model
from tools.background_figures import MODEL, main


def test_every_figure_is_drawn_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path)])
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    root = Path(__file__).parents[2]
    text = "".join((root / name).read_text() for name in ("README.md", "docs/background.md"))
    for name in names:
        assert f"images/{name})" in text
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_the_reach_of_a_pixel_grows_by_one_cell_a_step(n_steps: int) -> None:
    model = load_model(MODEL).automaton
    state = torch.rand(1, model.channels, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    end = plain_rollout(model, state, n_steps, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(end[0, :3, 16, 16].sum(), state)
    rows, columns = gradient[0].abs().sum(0).nonzero(as_tuple=True)
    assert max((rows - 16).abs().max(), (columns - 16).abs().max()) <= n_steps
