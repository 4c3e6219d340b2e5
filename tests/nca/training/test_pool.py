"""The pool: samples are copies, commits are in order, and `keep` can suppress them."""

from __future__ import annotations

import pytest
import torch

from nca.automaton.model import Automaton
from nca.automaton.seeding import Streams
from nca.training.pool import Pool
from tests.builders import CPU, RULES, automaton, generator

KEEP = torch.tensor(True)


@pytest.fixture
def model() -> Automaton:
    return automaton(channels=3)


@pytest.fixture
def pool(model: Automaton) -> Pool:
    return Pool(8, model, 16, Streams(0, CPU))


@pytest.mark.parametrize("rule", RULES)
def test_a_fresh_pool_holds_different_seed_states_of_its_rule(rule: str) -> None:
    model = automaton(rule, channels=3)
    pool = Pool(8, model, 16, Streams(0, CPU))
    assert torch.equal(pool.states, model.draw_seed_states(8, 16, Streams(0, CPU)["seed_states"]))
    assert len(pool.states.unique(dim=0)) == 8


def test_rows_are_uniform_with_replacement(pool: Pool) -> None:
    batches = [pool.draw_rows(4) for _ in range(1000)]
    rows = torch.tensor(batches).flatten()
    counts = torch.bincount(rows, minlength=8).double()
    assert len(counts) == 8
    # 4000 draws: 500 a row, deviation 21.
    assert float((counts - 500).abs().max()) < 100
    # Of four draws of eight rows, 1 - 8*7*6*5/8^4 = 59 % hold a row twice.
    assert 0.5 < sum(len(set(batch)) < 4 for batch in batches) / 1000 < 0.68


def test_rows_come_from_their_stream_alone(model: Automaton) -> None:
    streams = [Streams(0, CPU), Streams(0, CPU)]
    pools = [Pool(8, model, 16, each) for each in streams]
    pools[1].draw_seed_state()
    assert pools[0].draw_rows(20) == pools[1].draw_rows(20)
    assert not torch.equal(pools[0].draw_seed_state(), pools[1].draw_seed_state())


def test_a_batch_larger_than_the_pool_can_be_drawn(model: Automaton) -> None:
    rows = Pool(1, model, 16, Streams(0, CPU)).draw_rows(5)
    assert rows == [0] * 5


def test_sample_returns_a_copy(pool: Pool) -> None:
    before = pool.states.clone()
    sample = pool.sample([2, 5, 2])
    assert torch.equal(sample, before[[2, 5, 2]])
    sample.zero_()
    assert torch.equal(pool.states, before)


def test_commit_writes_its_rows_and_no_other(pool: Pool) -> None:
    before = pool.states.clone()
    states = torch.rand(2, 3, 16, 16, generator=generator())
    pool.commit([6, 1], states, KEEP)
    assert torch.equal(pool.states[6], states[0])
    assert torch.equal(pool.states[1], states[1])
    others = [0, 2, 3, 4, 5, 7]
    assert torch.equal(pool.states[others], before[others])


def test_of_a_row_drawn_twice_the_last_state_stays(pool: Pool) -> None:
    states = torch.rand(3, 3, 16, 16, generator=generator())
    pool.commit([4, 4, 4], states, KEEP)
    assert torch.equal(pool.states[4], states[2])


def test_nothing_is_written_where_keep_is_false(pool: Pool) -> None:
    before = pool.states.clone()
    pool.commit([0, 1], torch.full((2, 3, 16, 16), torch.nan), ~KEEP)
    assert torch.equal(pool.states, before)


def test_commit_takes_a_copy(pool: Pool) -> None:
    states = torch.rand(1, 3, 16, 16, generator=generator())
    pool.commit([0], states, KEEP)
    kept = pool.states[0].clone()
    states.zero_()
    assert torch.equal(pool.states[0], kept)


def test_rows_and_states_must_match_in_number(pool: Pool) -> None:
    with pytest.raises(ValueError, match="zip"):
        pool.commit([0, 1], torch.rand(3, 3, 16, 16, generator=generator()), KEEP)


def test_damage_erases_a_disc_somewhere_on_the_torus(pool: Pool) -> None:
    states, found = torch.ones(2, 3, 16, 16), []
    for _ in range(60):
        damaged = pool.damage(states)
        assert torch.equal(damaged[0], damaged[1])
        assert torch.equal(damaged[0, 0], damaged[0, 2])
        hole = damaged[0, 0] == 0
        assert torch.equal(damaged[0, 0], (~hole).float())
        found.append(hole)
        # In the middle of a row of its own, wherever it lies on the torus, it is a disc.
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert rows == columns
        assert 2 <= int(rows) <= 10
    assert torch.equal(states, torch.ones(2, 3, 16, 16))
    assert torch.stack(found).any(0).all()
    assert len({int(hole.sum()) for hole in found}) > 5


def test_fresh_seeds_differ_from_each_other(pool: Pool) -> None:
    one, two = pool.draw_seed_state(), pool.draw_seed_state()
    assert one.shape == (1, 3, 16, 16)
    assert not torch.equal(one, two)
