import threading
from itertools import pairwise

import numpy as np
import pytest

from equipot.fit.batches import epoch_order, minibatches, prefetched, share
from equipot.fit.options import FitOptions

SIZES = [int(n) for n in np.random.default_rng(0).integers(2, 40, size=53)]


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch_order(50, 1, 3) == epoch_order(50, 1, 3)
    assert sorted(epoch_order(50, 1, 3)) == list(range(50))
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25


@pytest.mark.parametrize("choice", [{"batch_size": 5}, {"batch_size": None, "batch_atoms": 60}])
def test_each_structure_once_per_epoch(choice):
    batches = minibatches(SIZES, FitOptions(seed=3, **choice), epoch=2)
    assert sorted(i for batch in batches for i in batch) == list(range(53))
    assert batches != minibatches(SIZES, FitOptions(seed=3, **choice), epoch=3)


def test_minibatches_by_structures_are_even():
    lengths = [len(b) for b in minibatches(SIZES, FitOptions(batch_size=5), 0)]
    assert len(lengths) == 11
    assert max(lengths) <= 5 and max(lengths) - min(lengths) <= 1


def test_minibatches_by_atoms_keep_the_budget():
    batches = minibatches(SIZES, FitOptions(batch_size=None, batch_atoms=50), 0)
    assert all(sum(SIZES[i] for i in b) <= 50 for b in batches)
    assert all(sum(SIZES[i] for i in a + b[:1]) > 50 for a, b in pairwise(batches))
    alone = minibatches(SIZES, FitOptions(batch_size=None, batch_atoms=1), 0)
    assert [len(b) for b in alone] == [1] * 53


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_cover_a_minibatch_without_duplicates(processes):
    minibatch = minibatches(SIZES, FitOptions(batch_size=6), 0)[0]
    shares = [share(minibatch, SIZES, rank, processes) for rank in range(processes)]
    assert sorted(i for s in shares for i in s) == sorted(minibatch)
    if processes == 2:
        atoms = [sum(SIZES[i] for i in s) for s in shares]
        assert abs(atoms[0] - atoms[1]) <= max(SIZES[i] for i in minibatch)


def test_prefetching_keeps_the_order_and_passes_errors_on():
    made = []

    def make(request):
        made.append(threading.current_thread() is threading.main_thread())
        if request == (3,):
            raise RuntimeError("third")
        return request[0]

    assert list(prefetched(make, [(0,), (1,), (2,)])) == [0, 1, 2]
    assert not any(made)
    with pytest.raises(RuntimeError, match="third"):
        list(prefetched(make, [(0,), (1,), (2,), (3,), (4,)]))
    assert list(prefetched(make, [])) == []


def test_an_abandoned_prefetch_ends_its_thread():
    batches = prefetched(lambda request: request, [(i,) for i in range(10)])
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("equipot-batches")]
