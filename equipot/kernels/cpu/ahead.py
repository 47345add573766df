"""Compiles what a model will need before it is needed, side by side."""

import logging
from collections.abc import Callable, Iterable

import torch

from equipot.kernels.cpu import (
    atomic_basis,
    convolution,
    coupled,
    coupled_rows,
    gate,
    harmonics,
    linear,
    product,
    spline,
    spline_table,
    splined_convolution,
)
from equipot.kernels.cpu.compiler import Target, cache_folder, compile_all, missing, target_or_error
from equipot.kernels.operations import Operation

logger = logging.getLogger(__name__)

SOURCES: dict[str, Callable[[str, torch.dtype, Target, bool], list[str]]] = {
    "atomic_basis": atomic_basis.sources,
    "convolution": convolution.sources,
    "coupled": coupled.sources,
    "coupled_rows": coupled_rows.sources,
    "edge_harmonics": harmonics.sources,
    "gate": gate.sources,
    "linear": linear.sources,
    "product": product.sources,
    "spline": spline.sources,
    "spline_table": spline_table.sources,
}
"""For each kind of operation: key, dtype, target, training → the sources that a run usually needs."""


def compile_operations(operations: Iterable[Operation], *, training: bool) -> None:
    """Compiles the sources of these operations that are not in the cache yet.

    Raises:
        CompilationError: The compiler refused one.
    """
    target = target_or_error()
    wanted = dict.fromkeys((op.kind, op.key, op.dtype) for op in operations)
    splined = any(kind == "spline" for kind, *_ in wanted) and not training
    sources: list[str] = []
    for kind, key, dtype in wanted:
        if kind == "convolution" and splined:
            sources += splined_convolution.sources(key, dtype, target)
        else:
            sources += SOURCES[kind](key, dtype, target, training)
    new = missing(sources)
    if new:
        plural = "kernel" if len(new) == 1 else "kernels"
        logger.info("compiling %d %s, once; kept in %s", len(new), plural, cache_folder())
        compile_all(new)
