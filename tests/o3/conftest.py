"""Rotations, directions and the oracle shared by the tests of the group."""

import warnings

import pytest
import torch


@pytest.fixture
def rotation() -> torch.Tensor:
    """A random proper rotation."""
    generator = torch.Generator().manual_seed(7)
    Q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return Q * torch.linalg.det(Q).sign()


@pytest.fixture
def directions() -> torch.Tensor:
    """Random unit vectors, and the poles."""
    generator = torch.Generator().manual_seed(11)
    r = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    r = torch.cat([r, torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    return r / r.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="session")
def e3nn_o3():
    """e3nn's module of the group, the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn's own deprecations, at import
        from e3nn import o3
    return o3
