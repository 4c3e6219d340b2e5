"""Named random streams from one integer seed; the only module that constructs torch generators."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

# On the CPU, so that they draw the same on every device, and integers need no device-to-host sync.
HOST_STREAMS = ("weights", "filters", "pool", "ca_steps", "directions")
DEVICE_STREAMS = ("seed_states", "masks")
STREAMS = HOST_STREAMS + DEVICE_STREAMS


def derive_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed for the stream `name`, independent of every other name's."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Streams:
    """One generator per named stream, seeded from (seed, name) alone.

    Args:
        seed: 0 or more.
        device: Device of `DEVICE_STREAMS`, which are None on `meta`; the others are on the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generators: dict[str, torch.Generator | None] = {}
        for name in STREAMS:
            stream_device = device if name in DEVICE_STREAMS else torch.device("cpu")
            generator = None if stream_device.type == "meta" else torch.Generator(stream_device)
            if generator is not None:
                generator.manual_seed(derive_seed(seed, name))
            self._generators[name] = generator

    def __getitem__(self, name: str) -> torch.Generator | None:
        """Return the stream's generator; shared, so drawing from it advances the stream."""
        return self._generators[name]

    def state(self) -> dict[str, Tensor]:
        """Return a copy of each generator's state."""
        return {name: g.get_state() for name, g in self._generators.items() if g is not None}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the streams of a dictionary that `state` returned; older ones lack `directions`.

        Raises:
            KeyError: If another stream is missing.
        """
        for name, generator in self._generators.items():
            if generator is not None and (name in state or name != "directions"):
                generator.set_state(state[name].contiguous().cpu())
