"""The gate in C++: one pass over each node's columns, with vector exponentials accurate to the last digits."""

from functools import lru_cache
from pathlib import Path

import torch

from equipot.kernels.cpu.compiler import Target
from equipot.kernels.cpu.source import Code, number, scalar
from equipot.kernels.gate_map import GateMap

HEADER = Path(__file__).with_name("gate.h")
ACTIVATIONS = {"silu": "Silu", "sigmoid": "Sigmoid", "tanh": "Tanh", "ssp": "Ssp"}
"""Names of activations here and in `gate.h`."""


@lru_cache(maxsize=64)
def source(d: GateMap, dtype: torch.dtype, target: Target) -> str:
    """C++ of value, gradient and second gradient."""
    code = Code()
    code(f"typedef {scalar(dtype)} T;")
    code(f"enum {{ W = {target.lanes(dtype)}, DX = {d.irreps_in.dim}, DY = {d.irreps_out.dim} }};")
    return (
        str(code)
        + HEADER.read_text()
        + _loop("forward", "const T* x, T* y", ["x + i * DX", "y + i * DY"], _forward(d))
        + _loop(
            "backward", "const T* gy, const T* x, T* gx", ["gy + i * DY", "x + i * DX", "gx + i * DX"], _backward(d)
        )
        + _loop(
            "double_backward",
            "const T* h, const T* gy, const T* x, T* oy, T* ox",
            ["h + i * DX", "gy + i * DY", "x + i * DX", "oy ? oy + i * DY : oy", "ox ? ox + i * DX : ox"],
            _double_backward(d),
        )
    )


def _loop(name: str, arguments: str, rows: list[str], lines: list[str]) -> str:
    """A function of one node, and one that calls it for all nodes."""
    code = Code()
    code(f"static void {name}_of_node({arguments}) {{")
    for line in lines:
        code(line)
    code("}")
    code(f'extern "C" void {name}({arguments}, int64_t nodes, int threads) {{')
    code("in_even_pieces(threads, nodes, 1, [&](int64_t begin, int64_t end) {")
    code(f"for (int64_t i = begin; i < end; ++i) {name}_of_node({', '.join(rows)});")
    code("});")
    code("}")
    return str(code)


def _forward(d: GateMap) -> list[str]:
    scalars, gated = d.parts
    return [
        f"scalars<{ACTIVATIONS[s.activation.name]}>(x + {s.begin}, y + {s.out}, {s.mul}, "
        f"{number(s.activation.constant)});"
        for s in scalars
    ] + [
        f"gated<{ACTIVATIONS[g.activation.name]}>(x + {g.begin}, x + {g.gates}, y + {g.out}, {g.dim}, {g.mul}, "
        f"{number(g.activation.constant)});"
        for g in gated
    ]


def _backward(d: GateMap) -> list[str]:
    scalars, gated = d.parts
    return [
        f"scalars_back<{ACTIVATIONS[s.activation.name]}>(gy + {s.out}, x + {s.begin}, gx + {s.begin}, {s.mul}, "
        f"{number(s.activation.constant)});"
        for s in scalars
    ] + [
        f"gated_back<{ACTIVATIONS[g.activation.name]}>(gy + {g.out}, x + {g.begin}, x + {g.gates}, gx + {g.begin}, "
        f"gx + {g.gates}, {g.dim}, {g.mul}, {number(g.activation.constant)});"
        for g in gated
    ]


def _double_backward(d: GateMap) -> list[str]:
    def to(name: str, at: int) -> str:
        return f"{name} ? {name} + {at} : {name}"

    scalars, gated = d.parts
    return [
        f"scalars_twice<{ACTIVATIONS[s.activation.name]}>(h + {s.begin}, gy + {s.out}, x + {s.begin}, "
        f"{to('oy', s.out)}, {to('ox', s.begin)}, {s.mul}, {number(s.activation.constant)});"
        for s in scalars
    ] + [
        f"gated_twice<{ACTIVATIONS[g.activation.name]}>(h + {g.begin}, h + {g.gates}, gy + {g.out}, x + {g.begin}, "
        f"x + {g.gates}, {to('oy', g.out)}, {to('ox', g.begin)}, {to('ox', g.gates)}, {g.dim}, {g.mul}, "
        f"{number(g.activation.constant)});"
        for g in gated
    ]
