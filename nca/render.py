"""`python -m nca.render run=ID`: a viewer, a larger picture or an animation of a trained automaton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, read_number, read_out, writing
from nca.records.paths import PLACES, read_places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nca.outputs.model_file import TrainedAutomaton
    from nca.records.paths import Places

__all__ = ["main"]

CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
KINDS = (".html", ".png", ".gif", *CODECS)
LARGEST_PX = 4096
MULTIPLE_PX = 16  # of which a size is a multiple
FRAMES_PER_S = 25
CA_STEPS_PER_FRAME = 4
MAX_FRAMES, MAX_CA_STEPS = 100_000, 10_000_000
SHORTEST_VIDEO_SIDE_PX = 256  # smaller textures are enlarged to about this
COMMAND = Command(
    "nca.render",
    "Render a trained automaton: a viewer (.html), a picture (.png) or an animation (.gif, .mp4, .webm).",
    {
        "run": "id of an MLflow run, or path of a run's folder",
        "size": f"height and width in px, a multiple of {MULTIPLE_PX} up to {LARGEST_PX}; default as trained",
        "frames": f"frames of an animation, 1 to {MAX_FRAMES}; default 300",
        "ca_steps": f"CA steps of a picture, default as trained, or per frame, default {CA_STEPS_PER_FRAME}",
        "seed": "seed of the random updates, 0 or more; default 0",
        "out": f"file to write, one of {', '.join(KINDS)}; default: by the other options",
        **PLACES,
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
        size = read_number(options, "size", 0, 0, LARGEST_PX)
        if size % MULTIPLE_PX:
            raise ConfigError(f"size={size}: must be a multiple of {MULTIPLE_PX}")
        frames = read_number(options, "frames", 300, 1, MAX_FRAMES)
        seed = read_number(options, "seed", 0, 0, 2**31 - 1)
        ca_steps = read_number(options, "ca_steps", 0, 0, MAX_CA_STEPS)
        places, run = read_places(options), options["run"]
        from nca.outputs.model_file import load_model

        trained = load_model(places.fetch(run, "model.safetensors"))
        side = size or trained.config.train.size
        with writing(out) as partial:
            if out.suffix == ".html":
                _write_viewer(trained, places, run, side, partial)
            elif out.suffix == ".png":
                trained.grow(side, ca_steps if "ca_steps" in options else None, seed).save(partial)
            else:
                pictures = _grow(trained, side, ca_steps or CA_STEPS_PER_FRAME, seed)
                _write_animation(pictures, frames, partial)
        print(out)


def _choose_file(options: dict[str, str]) -> Path:
    """Return where to write: what was asked for, else by what else was asked for.

    Raises:
        ConfigError: If nothing can be written there, or not in that format.
    """
    kind = ".gif" if "frames" in options else ".png" if "size" in options else ".html"
    out = read_out(options, "out", f"{Path(options['run']).name[:8]}{kind}", KINDS)
    if out.suffix in CODECS:
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"out={out}: needs imageio-ffmpeg: pip install 'nca-sweep[video]'") from error
    return out


def _write_viewer(trained: TrainedAutomaton, places: Places, run: str, size: int, out: Path) -> None:
    import numpy as np
    from PIL import Image

    from nca.config.schema import name_study
    from nca.outputs.viewer import describe_facts, make_viewer

    pictures = {
        name: np.asarray(Image.open(places.fetch(run, f"{name}.png")).convert("RGB"))
        for name in ("target", "output")
    }
    trained_px = trained.config.train.size
    pictures["output"] = pictures["output"][:, :trained_px]  # the first of those side by side
    facts = describe_facts(trained.config, trained.metrics)
    out.write_text(make_viewer(trained.automaton, size, pictures, facts, name_study(trained.config)))


def _grow(trained: TrainedAutomaton, size: int, ca_steps: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures of a texture growing, `ca_steps` CA steps apart."""
    import torch

    from nca.automaton.seeding import Streams
    from nca.outputs.pictures import grow, to_pixels

    for state in grow(trained.automaton, size, ca_steps, Streams(seed, torch.device("cpu"))):
        yield to_pixels(state[:, :3])


def _write_animation(pictures: Iterator[NDArray[np.uint8]], n_frames: int, out: Path) -> None:
    from nca.outputs.pictures import save_frames

    if out.suffix == ".gif":
        save_frames([next(pictures) for _ in range(n_frames)], out)
        return
    import imageio_ffmpeg

    first = next(pictures)
    zoom = max(1, SHORTEST_VIDEO_SIDE_PX // len(first))
    video = imageio_ffmpeg.write_frames(
        str(out), (zoom * len(first), zoom * len(first)), fps=FRAMES_PER_S, codec=CODECS[out.suffix]
    )
    video.send(None)
    for index in range(n_frames):
        pixels = first if index == 0 else next(pictures)
        video.send(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1).tobytes())
    video.close()


if __name__ == "__main__":
    main()
