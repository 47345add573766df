"""Golden results of nequix with random weights.

    PEER/bin/python scripts/goldens/make_nequix.py tests/peers/goldens [NAME ...]

PEER is an environment with nequix (JAX); names choose configurations, or are paths of released `.nqx` models. One
configuration is written as a `.nqx` file too, by nequix itself.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from nequix.model import Nequix, load_model, save_model

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import E0, R_MAX, SPECIES, read_structures, write_golden

BASE: dict[str, Any] = {
    "cutoff": R_MAX, "atomic_numbers": list(SPECIES), "hidden_irreps": "4x0e + 3x1o + 2x2e", "lmax": 2, "n_layers": 3,
    "radial_basis_size": 5, "radial_mlp_size": 6, "radial_mlp_layers": 2, "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0, "index_weights": False, "layer_norm": True, "shift": -0.37, "scale": 0.83,
    "avg_n_neighbors": 2.3,
}  # fmt: skip
"""By the names of a `.nqx` file's header."""
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "nequix": {"features": True},
    "nequix_indexed": {"index_weights": True, "layer_norm": False, "seed": 1},
    "nequix_indexed_norm": {"index_weights": True, "seed": 2, "n_layers": 2},
    "nequix_no_norm": {"layer_norm": False, "seed": 3},
    "nequix_L3": {"hidden_irreps": "5x0e + 3x1o + 2x2e + 2x3o", "lmax": 3, "n_layers": 2, "seed": 4},
    "nequix_L1": {"hidden_irreps": "3x0e + 3x1o", "lmax": 3, "n_layers": 4, "radial_mlp_layers": 1, "seed": 5},
    "nequix_scalars": {"hidden_irreps": "6x0e", "lmax": 0, "seed": 6},
    "nequix_one_layer": {"n_layers": 1, "radial_mlp_layers": 3, "radial_polynomial_p": 2.0, "seed": 7},
    "nequix_elements_unordered": {"atomic_numbers": [8, 1, 6], "index_weights": True, "n_layers": 2, "seed": 8},
    "nequix_float32": {"dtype": "float32", "seed": 9},
    "nequix_file": {"file": True, "seed": 10},
}  # fmt: skip


def build(options: dict[str, Any], seed: int, dtype: str) -> Nequix:
    """A model with random weights, those of its norms too."""
    names = {"lmax", "cutoff", "hidden_irreps", "n_layers", "radial_basis_size", "radial_mlp_size", "radial_mlp_layers",
             "radial_polynomial_p", "mlp_init_scale", "index_weights", "layer_norm", "shift", "scale",
             "avg_n_neighbors"}  # fmt: skip
    energies = [E0[SPECIES.index(z)] for z in sorted(options["atomic_numbers"])]
    chosen = {key: options[key] for key in names}
    model = Nequix(jax.random.key(seed), len(energies), atom_energies=energies, **chosen)
    generator = np.random.default_rng(seed)

    def changed(leaf: Any) -> Any:
        noise = 0.0 if leaf.shape == (len(energies),) else generator.normal(scale=0.1, size=leaf.shape)
        return jnp.asarray(np.asarray(leaf, np.float64) + noise, dtype)

    arrays, rest = eqx.partition(model, eqx.is_array)
    return eqx.combine(jax.tree.map(changed, arrays), rest)


def named_leaves(model: Nequix) -> dict[str, np.ndarray]:
    """The arrays of the model by their place in it, such as ``layers.0.radial_mlp.layers.1.weights``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


class Watched(eqx.Module):
    """A layer that keeps what it returns."""

    layer: Any
    kept: list[Any] = eqx.field(static=True)

    def __call__(self, *inputs: Any) -> Any:
        """Returns the layer's features."""
        features = self.layer(*inputs)
        self.kept.append(features.array)
        return features


def results_of(model: Nequix, options: dict[str, Any], structures: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Energies, forces, stresses and features of all structures, which are one graph of separate parts."""
    parts = [edges_of(s, options["cutoff"]) for s in structures]
    sizes = [len(s["numbers"]) for s in structures]
    starts = np.cumsum([0, *sizes[:-1]])
    i, j = (np.concatenate([p[n] + start for p, start in zip(parts, starts, strict=True)]) for n in (0, 1))
    S, lattice, x = (
        jnp.asarray(np.concatenate(a), dtype)
        for a in ([p[2] for p in parts], [p[3][None] for p in parts], [s["positions"] for s in structures])
    )
    system = np.repeat(np.arange(len(sizes)), [len(p[0]) for p in parts])
    order = sorted(options["atomic_numbers"])
    species = jnp.array([order.index(z) for s in structures for z in s["numbers"]])

    @jax.jit
    def derivatives(x: Any, strain: Any) -> Any:
        def energy(x: Any, strain: Any) -> Any:
            deform = (jnp.eye(3, dtype=dtype) + (strain + strain.swapaxes(1, 2)) / 2)[system]
            undeformed = x[j] - x[i] + jnp.einsum("ea,eab->eb", S, lattice[system])
            r = jnp.einsum("ea,eab->eb", undeformed, deform)
            kept: list[Any] = []
            watched = eqx.tree_at(lambda m: m.layers, model, [Watched(layer, kept) for layer in model.layers])
            energies = watched.node_energies(r, species, j, i)[:, 0]
            return jnp.sum(energies), (energies, kept)

        return jax.value_and_grad(energy, argnums=(0, 1), has_aux=True)(x, strain)

    (_, (energies, kept)), (gradient, virial) = derivatives(x, jnp.zeros((len(sizes), 3, 3), dtype))
    volume = np.array([abs(np.linalg.det(p[3])) for p in parts])
    volume[[not all(s["pbc"]) for s in structures]] = np.nan
    total, reference = (
        np.add.reduceat(np.asarray(e, np.float64), starts) for e in (energies, model.atom_energies[species])
    )
    return {
        "energy": total, "interaction": total - reference, "forces": -np.asarray(gradient, np.float64),
        "stress": np.asarray(virial, np.float64) / volume[:, None, None],
        **{f"features/{t}": np.asarray(h, np.float64) for t, h in enumerate(kept)},
    }  # fmt: skip


def edges_of(structure: dict[str, Any], cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Receivers, senders, images and the cell, as nequix's own calculator finds them."""
    cell = complete_cell(np.array(structure["cell"]))
    i, j, S = neighbour_list(
        "ijS", positions=np.array(structure["positions"]), cell=cell, pbc=structure["pbc"], cutoff=cutoff
    )
    return i, j, S, np.asarray(cell)


def random_model(name: str) -> tuple[Nequix, dict[str, Any], str, bool, bool]:
    """A configuration: its model, header and precision, whether features are kept and a `.nqx` file is written."""
    values = dict(CONFIGURATIONS[name])
    seed, dtype = values.pop("seed", 0), values.pop("dtype", "float64")
    features, file = values.pop("features", False), values.pop("file", False)
    options = {**BASE, **values}
    jax.config.update("jax_enable_x64", dtype == "float64")
    return build(options, seed, dtype), options, dtype, features, file


def cast(model: Nequix, dtype: str) -> Nequix:
    """The model with its weights in another precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype) if eqx.is_array(leaf) else leaf, model)


def write(folder: Path, name: str, model: Nequix, options: dict[str, Any], dtype: str, features: bool) -> None:
    """Computes and writes the results of a model."""
    packages = {package: version(package) for package in ("nequix", "e3nn-jax", "jax", "equinox", "numpy")}
    results = results_of(model, options, read_structures(folder), dtype)
    meta: dict[str, Any] = {
        "options": {"code": "nequix", "version": packages["nequix"], **options}, "head": None, "dtype": dtype,
        "versions": packages,
    }  # fmt: skip
    if features:
        meta["features_irreps"] = [str(layer.output_irreps) for layer in model.layers]
    else:
        results = {key: value for key, value in results.items() if "features" not in key}
    write_golden(folder, name, meta, named_leaves(model), results)


def write_random(folder: Path, name: str) -> None:
    """Writes one configuration with random weights."""
    model, options, dtype, features, file = random_model(name)
    if file:  # nequix writes float32; its results with these weights cast up are exact to float64
        model = cast(model, "float32")
        save_model(str(folder / f"{name}.nqx"), model, {**options, "optimizer": "muon", "learning_rate": 0.01})
        model = cast(model, "float64")
    write(folder, name, model, options, dtype, features)


def write_released(folder: Path, path: Path) -> None:
    """Writes the results of a released model in both precisions."""
    for dtype in ("float64", "float32"):
        jax.config.update("jax_enable_x64", False)
        model, options = load_model(str(path))
        jax.config.update("jax_enable_x64", dtype == "float64")
        write(folder, f"{path.stem}_{dtype}", cast(model, dtype), options, dtype, False)


def main(folder: Path, names: list[str]) -> None:
    """Writes the golden files."""
    for name in names or CONFIGURATIONS:
        if name.endswith(".nqx"):
            write_released(folder, Path(name))
        else:
            write_random(folder, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
