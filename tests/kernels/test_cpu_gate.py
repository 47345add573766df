"""The gate in generated C++ against its definition: value, gradient, second gradient, and its functions' accuracy."""

import mpmath
import pytest
import torch

from equipot.interactions.gate import Gate
from equipot.kernels import backend
from equipot.kernels.gate_map import GateMap, Scaled
from equipot.o3 import Irreps
from tests.kernels.fused import derivatives, needs_compiler, random, relative_error

IRREPS = Irreps("5x0o + 19x0e + 7x1o + 16x1e + 3x2e")


def both(dtype: torch.dtype, activation: str = "silu", gates: str | None = None) -> tuple[Gate, Gate]:
    fused, exact = (Gate(IRREPS, activation, "e3nn", kind, gates) for kind in (dtype, torch.float64))
    assert backend.use_backend(fused, "cpu").name == "cpu"
    return fused, exact


@needs_compiler
@pytest.mark.parametrize(
    ("activation", "gates", "dtype", "limit"),
    [
        ("silu", None, torch.float64, 1e-14),
        ("ssp", "sigmoid", torch.float64, 1e-14),
        ("silu", "sigmoid", torch.float32, 1e-6),
    ],
)
def test_value_and_derivatives_are_those_of_the_definition(activation, gates, dtype, limit) -> None:
    fused, exact = both(dtype, activation, gates)
    for nodes in (0, 9):
        x = 3.0 * random(nodes, fused.irreps_in.dim, dtype=dtype)
        made, wanted = derivatives(fused, [x]), derivatives(exact, [x.double()])
        assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


SIGMOID = lambda x: 1 / (1 + mpmath.exp(-x))  # noqa: E731
FUNCTIONS = {"silu": lambda x: x * SIGMOID(x), "sigmoid": SIGMOID, "tanh": mpmath.tanh}


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_are_right_to_the_last_digits(dtype: torch.dtype) -> None:
    """Relative to the exact value, for small and large arguments of both signs."""
    x = torch.cat([sign * torch.logspace(-8, 1.8, 300, dtype=torch.float64) for sign in (1.0, -1.0)]).to(dtype)
    with mpmath.workdps(40):
        for name, function in FUNCTIONS.items():
            scaled = Scaled(name, 1.0)
            y = torch.ops.equipot.gate(x[None], GateMap(Irreps(f"{len(x)}x0e"), scaled, scaled, scaled).key)[0]
            exact = [function(mpmath.mpf(value)) for value in x.tolist()]
            errors = [abs(mpmath.mpf(a) / b - 1) for a, b in zip(y.tolist(), exact, strict=True)]
            assert max(errors) < 2.5 * torch.finfo(dtype).eps


@needs_compiler
@pytest.mark.parametrize("name", ["silu", "sigmoid", "tanh", "ssp"])
def test_functions_far_out_and_not_a_number(name: str) -> None:
    x = torch.tensor([[-1e4, -120.0, 0.0, 120.0, 1e4, torch.nan]], dtype=torch.float32)
    scaled = Scaled(name, 1.0)
    y = torch.ops.equipot.gate(x, GateMap(Irreps("6x0e"), scaled, scaled, scaled).key)
    exact = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}.get(
        name, lambda x: torch.nn.functional.softplus(x) - torch.log(torch.tensor(2.0))
    )(x)
    torch.testing.assert_close(y, exact, rtol=1e-6, atol=1e-7 if name == "ssp" else 1e-30, equal_nan=True)


@needs_compiler
def test_derivatives_are_derivatives() -> None:
    fused, _ = both(torch.float64)
    x = random(2, fused.irreps_in.dim).requires_grad_()
    assert torch.autograd.gradcheck(fused, (x,))
    assert torch.autograd.gradgradcheck(fused, (x,))


@needs_compiler
def test_operators_keep_torchs_rules() -> None:
    fused, _ = both(torch.float64)
    key = fused.operation.key
    x, gy = random(3, fused.irreps_in.dim).requires_grad_(), random(3, IRREPS.dim, seed=1).requires_grad_()
    torch.library.opcheck(torch.ops.equipot.gate.default, (x, key))
    torch.library.opcheck(torch.ops.equipot.gate_backward.default, (gy, x, key))


def test_key_names_the_description() -> None:
    d = GateMap(IRREPS, Scaled("silu", 1.679), Scaled("sigmoid", 1.8467), Scaled("tanh", 1 / 3))
    assert GateMap.from_key(d.key) == d
