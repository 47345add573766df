"""The threads of compiled operations: each piece of work done once, sums in one order, whoever does them."""

import ctypes
import os
import threading

import numpy as np
import pytest
import torch

from equipot.kernels import threads
from equipot.kernels.cpu import compiler

pytestmark = pytest.mark.skipif(compiler.target() is None, reason="no C++ compiler")

SOURCE = r"""
extern "C" void count(int64_t* counts, int64_t size, int64_t step, int threads) {
    in_pieces(threads, size, step, [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) ++counts[n];
    });
}

extern "C" void sums(const double* x, double* y, const int64_t* pieces, int64_t rows, int64_t size, int threads) {
    in_rows(threads, int(rows), [&](int r) { return pieces[r]; }, [&](int r, int64_t n) {
        for (int64_t k = 0; k < size; ++k) y[r] += x[(r * 50 + n) * size + k];
    });
}

extern "C" int64_t nested(int threads) {
    std::atomic<int64_t> total(0);
    in_pieces(threads, 20, 1, [&](int64_t, int64_t) {
        in_pieces(threads, 30, 1, [&](int64_t first, int64_t last) { total += last - first; });
    });
    return total;
}
"""
ROWS, SIZE = 6, 40
PIECES = np.array([50, 0, 7, 50, 1, 23])
NUMBERS = np.random.default_rng(0).normal(size=ROWS * 50 * SIZE)


def pointer(x: np.ndarray) -> ctypes.c_void_p:
    return x.ctypes.data_as(ctypes.c_void_p)


def sums(threads: int) -> bytes:
    y = np.zeros(ROWS)
    library = compiler.load(SOURCE)
    library.sums(pointer(NUMBERS), pointer(y), pointer(PIECES), ctypes.c_int64(ROWS), ctypes.c_int64(SIZE), threads)
    return y.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("size", "step"), [(0, 4), (1, 4), (4, 4), (1003, 4), (1003, 2000)])
def test_every_piece_is_done_once(threads: int, size: int, step: int) -> None:
    counts = np.zeros(max(size, 1), dtype=np.int64)
    for _ in range(50):
        compiler.load(SOURCE).count(pointer(counts), ctypes.c_int64(size), ctypes.c_int64(step), threads)
    assert (counts[:size] == 50).all()


def test_sums_have_the_same_bits_with_any_number_of_threads() -> None:
    x = NUMBERS.reshape(ROWS, 50 * SIZE)
    expected = sums(1)
    np.testing.assert_allclose(
        np.frombuffer(expected), [x[r, : PIECES[r] * SIZE].sum() for r in range(ROWS)], rtol=1e-12, atol=1e-12
    )
    assert {sums(threads) for threads in (1, 2, 3, 8) for _ in range(100)} == {expected}


def test_several_callers_at_once() -> None:
    """One of them has the threads; the others do their work alone."""
    results: set[bytes] = set()
    callers = [threading.Thread(target=lambda: results.update(sums(3) for _ in range(200))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {sums(1)}


def test_work_within_work() -> None:
    function = compiler.load(SOURCE).nested
    function.restype = ctypes.c_int64
    assert function(3) == 600


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    expected = sums(3)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(sums(3) == expected for _ in range(50)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_torch_is_alone_where_operations_do_the_work() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with threads.alone():
            assert (torch.get_num_threads(), threads.num_threads()) == (1, 3)
            with threads.alone():
                assert (torch.get_num_threads(), threads.num_threads()) == (1, 3)
            assert threads.num_threads() == 3
        assert (torch.get_num_threads(), threads.num_threads()) == (3, 3)
        with threads.alone(False):
            assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), threads.alone():
            raise KeyError
        assert (torch.get_num_threads(), threads.num_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_torch_is_alone_for_several_threads_of_python() -> None:
    """Each has its own number back, whoever leaves first."""
    before, seen = torch.get_num_threads(), []
    both_inside = threading.Barrier(2)

    def work() -> None:
        torch.set_num_threads(3)
        both_inside.wait()
        with threads.alone():
            both_inside.wait()
            seen.append((torch.get_num_threads(), threads.num_threads()))
            both_inside.wait()
        seen.append((torch.get_num_threads(), threads.num_threads()))

    workers = [threading.Thread(target=work) for _ in range(2)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == [(1, 3), (1, 3), (3, 3), (3, 3)]


def test_without_threads_operations_do_their_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sums(1)
    monkeypatch.setattr(compiler, "_threads", lambda: None)
    monkeypatch.setattr(compiler, "_libraries", {})
    fresh = compiler.load(SOURCE + "// another text, another library")
    y = np.zeros(ROWS)
    fresh.sums(pointer(NUMBERS), pointer(y), pointer(PIECES), ctypes.c_int64(ROWS), ctypes.c_int64(SIZE), 4)
    assert y.tobytes() == expected
