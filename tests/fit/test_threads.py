"""Who uses the threads of a machine while a potential works."""

import pytest
import torch

from equipot.fit import train
from equipot.kernels import threads
from equipot.kernels.backend import use_backend
from tests.fit import small
from tests.kernels.fused import needs_compiler


@pytest.fixture
def three_threads():
    """torch with three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(
    ("backend", "radial", "of_torch"), [("cpu", "spline:64", 1), ("cpu", "exact", 3), ("reference", "spline:64", 3)]
)
def test_torch_is_alone_only_where_compiled_operations_do_the_work(three_threads, backend, radial, of_torch):
    potential = small.potential().choose_radial(radial)
    use_backend(potential, backend)
    with potential.at_work():
        assert (torch.get_num_threads(), threads.num_threads()) == (of_torch, 3)
    assert torch.get_num_threads() == 3


@needs_compiler
def test_a_step_of_training_is_at_work(three_threads, tmp_path, monkeypatch):
    seen = []
    evaluate = train.training_prediction
    monkeypatch.setattr(
        train, "training_prediction", lambda *given: seen.append(torch.get_num_threads()) or evaluate(*given)
    )
    potential = small.potential().choose_radial("spline:64")
    use_backend(potential, "cpu")
    train.fit(potential, small.dataset(4), small.dataset(2, seed=1), small.options(max_epochs=1), tmp_path)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3
