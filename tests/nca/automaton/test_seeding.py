"""Named random streams: different, independent of each other, the same in another process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from nca.automaton.seeding import DEVICE_STREAMS, HOST_STREAMS, STREAMS, Streams, derive_seed
from tests.builders import CPU


def draw(streams: Streams, name: str) -> Tensor:
    return torch.rand(8, generator=streams[name])


def test_every_stream_differs() -> None:
    streams = Streams(0, CPU)
    drawn = {tuple(draw(streams, name).tolist()) for name in STREAMS}
    assert len(drawn) == len(STREAMS) == 7


@pytest.mark.parametrize("name", STREAMS)
def test_drawing_from_one_stream_leaves_the_others_alone(name: str) -> None:
    streams, untouched = Streams(5, CPU), Streams(5, CPU)
    draw(streams, name)
    for other in STREAMS:
        same = torch.equal(draw(streams, other), draw(untouched, other))
        assert same == (other != name)


def test_another_seed_gives_other_numbers() -> None:
    assert not torch.equal(draw(Streams(0, CPU), "masks"), draw(Streams(1, CPU), "masks"))


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    before = torch.get_rng_state()
    draw(Streams(0, CPU), "weights")
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_63_bits_and_differ_by_seed_and_name() -> None:
    seeds = {derive_seed(seed, name) for seed in range(50) for name in STREAMS}
    assert len(seeds) == 50 * len(STREAMS)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # "1" + "1/a" and "11" + "/a" would meet if the parts were joined without a separator.
    assert derive_seed(1, "1/a") != derive_seed(11, "a")


def test_numbers_are_the_same_in_another_process() -> None:
    code = (
        "import torch; from nca.automaton.seeding import STREAMS, Streams\n"
        "s = Streams(7, torch.device('cpu'))\n"
        "print([torch.randint(2**62, (), generator=s[n]).item() for n in STREAMS])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    streams = Streams(7, CPU)
    here = [torch.randint(2**62, (), generator=streams[name]).item() for name in STREAMS]
    assert run.stdout.strip() == str(here)


def test_state_goes_on_where_it_was() -> None:
    streams = Streams(0, CPU)
    for name in STREAMS:
        draw(streams, name)
    state = streams.state()
    expected = {name: draw(streams, name) for name in STREAMS}
    assert state.keys() == expected.keys()
    fresh = Streams(99, CPU)
    fresh.load_state(state)
    for name in STREAMS:
        assert torch.equal(draw(fresh, name), expected[name])


def test_state_is_a_copy() -> None:
    streams = Streams(0, CPU)
    state = streams.state()
    before = state["pool"].clone()
    draw(streams, "pool")
    assert torch.equal(state["pool"], before)


def test_on_meta_only_the_host_has_generators() -> None:
    streams = Streams(0, torch.device("meta"))
    assert all(streams[name] is None for name in DEVICE_STREAMS)
    assert streams.state().keys() == set(HOST_STREAMS)
    streams.load_state(Streams(1, CPU).state())
    assert torch.equal(draw(streams, "weights"), draw(Streams(1, CPU), "weights"))


def test_a_missing_stream_is_an_error() -> None:
    state = Streams(0, CPU).state()
    del state["masks"]
    with pytest.raises(KeyError, match="masks"):
        Streams(0, CPU).load_state(state)


def test_a_state_from_before_there_were_directions_is_read() -> None:
    streams = Streams(0, CPU)
    draw(streams, "masks")
    state = streams.state()
    del state["directions"]
    expected = draw(streams, "masks")
    fresh = Streams(0, CPU)
    fresh.load_state(state)
    assert torch.equal(draw(fresh, "masks"), expected)
    assert torch.equal(draw(fresh, "directions"), draw(Streams(0, CPU), "directions"))
