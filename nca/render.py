"""`python -m nca.render run=ID`: a viewer, a larger picture or an animation of a trained automaton."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, atomic_output, read_number, read_out_path
from nca.cli.progress import watch
from nca.records.paths import MODEL, RECORD_OPTIONS, read_record_paths

if TYPE_CHECKING:
    from nca.outputs.model_file import TrainedAutomaton
    from nca.records.paths import RecordPaths
    from nca.textures.image_file import Pixels

VIDEOS = (".mp4", ".webm")
SUFFIXES = (".html", ".png", ".gif", *VIDEOS)
MAX_PX = 4096
MULTIPLE_PX = 16  # of which a size is a multiple
MAX_FRAMES, MAX_CA_STEPS = 100_000, 10_000_000
COMMAND = Command(
    "nca.render",
    "Render a trained automaton: a viewer (.html), a picture (.png) or an animation (.gif, .mp4, .webm).",
    {
        "run": "id of an MLflow run, or path of a run's folder or of a model.safetensors",
        "model": "class of the run's rule, MODULE.CLASS, if that is your own: its code is run",
        "size": f"side in px, a multiple of {MULTIPLE_PX} to {MAX_PX}; "
        "default as trained, in a viewer 128 at least",
        "frames": f"frames of an animation, 1 to {MAX_FRAMES}; default 300",
        "ca_steps": "CA steps of a picture, default 1.5 per px of its side, or per frame, default 4",
        "seed": "seed of the seed state and the random updates, 0 or more; default 0",
        "out": f"file to write, one of {', '.join(SUFFIXES)}; default: by the other options",
        **RECORD_OPTIONS,
    },
    required=["run"],
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file and print its name; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(OSError):
        options = COMMAND.read(arguments).options
        out = _choose_file(options)
        size = read_number(options, "size", 0, 0, MAX_PX)
        if size % MULTIPLE_PX:
            raise ConfigError(f"size={size}: must be a multiple of {MULTIPLE_PX}")
        n_frames = read_number(options, "frames", 300, 1, MAX_FRAMES)
        seed = read_number(options, "seed", 0, 0, 2**31 - 1)
        ca_steps = read_number(options, "ca_steps", 0, 0, MAX_CA_STEPS) if "ca_steps" in options else None
        paths, run = read_record_paths(options), options["run"]
        from nca.outputs.model_file import load_model

        trained = load_model(paths.fetch(run, MODEL), options.get("model"))
        shown = _read_pictures(trained, paths, run) if out.suffix == ".html" else {}
        with atomic_output(out) as partial:
            if shown:
                _write_viewer(trained, shown, size, partial)
            else:
                _write_pictures(trained, size or trained.config.train.size, seed, ca_steps, n_frames, partial)
        print(out)


def _choose_file(options: dict[str, str]) -> Path:
    """Return the file to write; without `out`, a GIF if `frames` is given, a PNG if `size` is, else a viewer.

    Raises:
        ConfigError: If nothing can be written there, or not in that format.
    """
    suffix = ".gif" if "frames" in options else ".png" if "size" in options else ".html"
    out = read_out_path(options, "out", f"{Path(options['run']).name[:8]}{suffix}", SUFFIXES)
    if out.suffix in VIDEOS and find_spec("imageio_ffmpeg") is None:
        raise ConfigError(f"out={out}: needs imageio-ffmpeg: pip install 'nca-sweep[video]'")
    return out


def _read_pictures(trained: TrainedAutomaton, paths: RecordPaths, run: str) -> dict[str, Pixels]:
    """Return the target and the output of a run, for its viewer.

    Raises:
        ConfigError: If it has none, or they are damaged, or the viewer does not know the rule.
    """
    from nca.outputs.viewer import has_viewer
    from nca.textures.image_file import read_picture

    if not has_viewer(trained.automaton):
        raise ConfigError(
            f"run={run}: the viewer cannot run {trained.config.model.name}; give out=FILE.png or out=FILE.gif"
        )
    pictures = {name: read_picture(paths.fetch(run, f"{name}.png")) for name in ("target", "output")}
    first = pictures["output"][:, : trained.config.train.size]  # of those side by side
    return {**pictures, "output": first}


def _write_viewer(trained: TrainedAutomaton, pictures: dict[str, Pixels], size: int, out: Path) -> None:
    from nca.config.schema import name_study
    from nca.outputs.viewer import GRID_SIDE, describe_facts, make_viewer

    facts = describe_facts(trained.config, trained.metrics)
    side = size or max(GRID_SIDE, trained.config.train.size)
    page = make_viewer(trained.automaton, side, pictures, facts, name_study(trained.config))
    out.write_text(page, encoding="utf-8")


def _write_pictures(
    trained: TrainedAutomaton, size: int, seed: int, ca_steps: int | None, n_frames: int, out: Path
) -> None:
    """Write the picture of a grown texture or an animation of its growth; stderr shows how far it is."""
    import torch

    from nca.automaton.seeding import Streams
    from nca.outputs import pictures
    from nca.training.device import keep_freed_memory

    keep_freed_memory()
    if out.suffix == ".png":
        trained.grow(size, ca_steps, seed).save(out)
        return
    every = ca_steps or pictures.CA_STEPS_PER_FRAME
    model, streams = trained.automaton, Streams(seed, torch.device("cpu"))
    states = pictures.grow(model, size, range(0, n_frames * every, every), streams)
    pictures.save_animation(map(model.rgb, watch(states, n_frames, "growing")), out)


if __name__ == "__main__":
    main()
