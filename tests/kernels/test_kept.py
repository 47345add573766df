"""What is kept of weights is never older than they are."""

import copy

import torch
from torch import nn

from equipot.kernels.kept import Kept


def doubled(weights) -> torch.Tensor:
    return 2.0 * weights[0]


def test_it_is_made_once_and_again_after_each_change() -> None:
    kept, w = Kept(), nn.Parameter(torch.ones(3), requires_grad=False)
    first = kept([w], doubled)
    assert kept([w], doubled) is first
    w.mul_(3.0)
    assert torch.equal(kept([w], doubled), torch.full((3,), 6.0))
    w.data = torch.full((3,), 5.0)
    assert torch.equal(kept([w], doubled), torch.full((3,), 10.0))
    other = nn.Parameter(torch.full((3,), 7.0), requires_grad=False)
    assert torch.equal(kept([other], doubled), torch.full((3,), 14.0))


def test_it_is_not_kept_where_weights_are_trained() -> None:
    kept, w = Kept(), nn.Parameter(torch.ones(3))
    made = kept([w], doubled)
    assert made.requires_grad and kept([w], doubled) is not made


def test_it_can_be_used_after_inference_mode_and_in_copies() -> None:
    kept, w = Kept(), nn.Parameter(torch.ones(3), requires_grad=False)
    with torch.inference_mode():
        kept([w], doubled)
    assert not kept([w], doubled).is_inference()
    twin, twin_w = copy.deepcopy((kept, w))
    twin_w.fill_(4.0)
    assert torch.equal(twin([twin_w], doubled), torch.full((3,), 8.0))
    assert torch.equal(kept([w], doubled), torch.full((3,), 2.0))
