"""Named random streams from one integer seed; the only place that makes generators."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["STREAMS", "Streams", "derive_seed"]

# Drawn on the CPU: the same on every device, and host integers need no device-to-host sync.
HOST_STREAMS = ("weights", "filters", "pool", "ca_steps")
DEVICE_STREAMS = ("seed_states", "masks")
STREAMS = HOST_STREAMS + DEVICE_STREAMS


def derive_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed for the stream `name`, independent of every other name's."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Streams:
    """One generator per named stream, each seeded from (seed, name) alone.

    The generators of `HOST_STREAMS` live on the CPU, those of `DEVICE_STREAMS` on the device. On
    `device=meta` the latter are None: torch has no generator there, and nothing is drawn.

    Args:
        seed: 0 or more.
        device: Where states and masks live.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generators: dict[str, torch.Generator | None] = {}
        for name in STREAMS:
            where = device if name in DEVICE_STREAMS else torch.device("cpu")
            generator = None if where.type == "meta" else torch.Generator(where)
            if generator is not None:
                generator.manual_seed(derive_seed(seed, name))
            self._generators[name] = generator

    def __getitem__(self, name: str) -> torch.Generator | None:
        """Return the stream's generator; shared, so drawing from it advances the stream."""
        return self._generators[name]

    def state(self) -> dict[str, Tensor]:
        """Return each generator's state as bytes, a copy."""
        return {name: g.get_state() for name, g in self._generators.items() if g is not None}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue every stream from a state that `state` returned."""
        for name, generator in self._generators.items():
            if generator is not None:
                generator.set_state(state[name].contiguous().cpu())
