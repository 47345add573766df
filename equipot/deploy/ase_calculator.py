"""An ASE calculator for a trained potential."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from equipot.deploy.compiled import Engine, Plain, compiled_path, load_compiled
from equipot.deploy.neighbours import SkinNeighbours
from equipot.errors import EquipotError
from equipot.geometry import Graph
from equipot.interactions import radial_choice
from equipot.kernels.backend import use_backend
from equipot.models.linear import linear_features, own_uncertainty
from equipot.models.linear_features import LinearFeatures
from equipot.models.model_file import as_device, as_dtype, converted, load_potential
from equipot.models.potential import Potential

logger = logging.getLogger(__name__)

UNCERTAIN = ("energy_std", "energies_std", "extrapolation", "forces_std")
"""Results that a potential has if it knows its uncertainty."""


class EquipotCalculator(Calculator):
    """Energies, forces and stress of one potential, for everything that ASE can do with them.

    | result | meaning | unit |
    |---|---|---|
    | energy, free_energy | E (the same number: there are no electrons to smear) | eV |
    | energies | E_i of each atom, E0 included; they add up to E | eV |
    | forces | −∂E/∂r_i | eV/Å |
    | stress | σ = (1/V) ∂E/∂ε, tension positive, Voigt order; three periodic directions only | eV/Å³ |

    A potential that knows its uncertainty (`equipot fit`) also has, where they are asked for by name
    (``calculator.get_property("energy_std", atoms)``) or always with `uncertainty`:

    | result | meaning | unit |
    |---|---|---|
    | energy_std | standard deviation of the energy | eV |
    | energies_std | of the energy of each atom | eV |
    | forces_std | of each component of the forces; costs as much as many force calls | eV/Å |
    | extrapolation | grade of each atom: above 1 it is farther out than all training atoms of its element | 1 |

    Positions and the sum of energies are float64 whatever the potential's precision. torch's global dtype
    and device are left alone, and so is its number of threads once a calculation is done.

    The first use of a model compiles its operations, which takes some seconds once on a machine; the log (logger
    ``equipot``) says so, and what backend was taken.

    Args:
        potential: a model file, a compiled potential (``.pt2``, from ``equipot compile``; it has a device, a dtype
            and a form of radial functions already), or a `Potential`.
        device: where to compute; None is the CPU for a file, and where it is for a `Potential`.
        dtype: ``float32`` or ``float64``; None keeps the potential's own.
        skin: extra radius of the neighbour search, Å (see `SkinNeighbours`).
        radial: how radial functions are evaluated, ``exact`` or ``spline:KNOTS``; None keeps the potential's own.
        backend: how the operations are evaluated: ``auto`` (the fastest here), ``reference`` (plain torch), ``cpu``,
            ``triton``, ``cuequivariance``; a `Potential` is switched to it. None keeps a potential's own.
        uncertainty: whether energy_std, energies_std and extrapolation are computed at every call.

    Raises:
        EquipotError: the file or the backend cannot be used, a structure has an element that the potential does not
            know, or `uncertainty` is asked of a potential that has none.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's name)

    def __init__(
        self,
        potential: Potential | str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        skin: float = 0.5,
        radial: str | None = None,
        backend: str | None = "auto",
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        path = compiled_path(potential)
        self.engine: Engine = (
            Plain(_prepared(potential, device, dtype, radial, backend))
            if path is None
            else load_compiled(path, device=device, dtype=dtype, radial=radial, backend=backend)
        )
        self.potential = self.engine.potential
        if backend is not None:
            logger.info("%s", self.engine)
        place = next(self.potential.parameters()).device
        self.neighbours = SkinNeighbours(self.potential.r_max, skin, device=place)
        self.shortest_distance = np.inf
        self.shortest_pair: tuple[int, int] = (-1, -1)
        self._exact: tuple[Potential, LinearFeatures] | None = None
        self._always = UNCERTAIN[:-1] if uncertainty else ()
        if uncertainty:
            self._on_cpu()
        if self.potential.uncertainty is not None:
            self.implemented_properties = [*type(self).implemented_properties, *UNCERTAIN]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything at once: forces and stress come from the same derivative.

        Raises:
            PropertyNotImplementedError: the stress of a structure without three periodic directions was
            asked for.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        periodic = bool(atoms.pbc.all())
        if "stress" in (properties or []) and not periodic:
            raise PropertyNotImplementedError(
                "stress needs a volume, thus three periodic directions; these atoms have "
                f"pbc={atoms.pbc.tolist()}. "
                "Set atoms.pbc = True and a cell, or ask for energy and forces only."
            )
        check_elements(self.potential, atoms)
        with self.potential.at_work():
            graph, lengths = self.neighbours.graph(atoms)
            self._note_shortest(graph.senders, graph.receivers, lengths)
            prediction = self.engine.evaluate(graph)
            deviations = self._deviations(graph, [*self._always, *(properties or [])])
        energy = float(prediction.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction.node_energy.cpu().numpy(),
            "forces": prediction.forces.cpu().numpy(),
        }
        if periodic:
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].cpu().numpy())
        self.results |= deviations

    def _on_cpu(self) -> tuple[Potential, LinearFeatures]:
        """A copy of the potential in double precision on the CPU, and what it is linear in."""
        own_uncertainty(self.potential, "the potential")
        if self._exact is None:
            exact = converted(self.potential, torch.float64, "cpu").eval().requires_grad_(False)
            self._exact = exact, linear_features(exact)
        return self._exact

    def _deviations(self, graph: Graph, wanted: Sequence[str]) -> dict[str, Any]:
        """The standard deviations that are wanted, if any are."""
        if self.potential.uncertainty is None or not set(wanted) & set(UNCERTAIN):
            return {}
        forces, graph = "forces_std" in wanted, graph.to("cpu")
        exact, features = self._on_cpu()
        species = exact.species(graph.atomic_numbers)[: graph.num_owned]
        found = own_uncertainty(exact, "the potential")(features, graph, species, forces=forces)
        values = {
            "energy_std": float(found.energy[0]), "energies_std": found.node_energy.numpy(),
            "extrapolation": found.extrapolation.numpy(),
        }  # fmt: skip
        return values | ({"forces_std": found.forces.numpy()} if forces else {})

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last computation: positions, elements, cell or periodicity, in any bit."""
        old = self.atoms
        if old is None or len(old) != len(atoms):
            return all_changes
        pairs = {
            "positions": (old.positions, atoms.positions),
            "numbers": (old.numbers, atoms.numbers),
            "cell": (old.cell.array, atoms.cell.array),
            "pbc": (old.pbc, atoms.pbc),
        }
        return [name for name, (before, now) in pairs.items() if not np.array_equal(before, now)]

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What ASE's file formats write down about the calculator."""
        return {"model": "equipot", "r_max": self.potential.r_max, "dtype": str(self.potential.dtype)}

    def _note_shortest(self, senders: torch.Tensor, receivers: torch.Tensor, lengths: torch.Tensor) -> None:
        """Remember the closest pair of the last structure, for those who watch a simulation."""
        if len(lengths) == 0:
            self.shortest_distance, self.shortest_pair = np.inf, (-1, -1)
            return
        k = int(lengths.argmin())
        self.shortest_distance = float(lengths[k])
        self.shortest_pair = (int(receivers[k]), int(senders[k]))


def check_elements(potential: Potential, atoms: Atoms) -> None:
    """Refuse a structure with elements that the potential was not trained on.

    Raises:
        EquipotError: names the unknown and the known elements.
    """
    unknown = sorted(set(atoms.numbers.tolist()) - set(potential.statistics.species))
    if unknown:
        raise EquipotError(
            f"the structure {atoms.get_chemical_formula()} has {_symbols(unknown)}, which the potential "
            "does not "
            f"know: it was trained on {_symbols(potential.statistics.species)}. Train on data with that "
            "element."
        )


def _symbols(numbers: Any) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _prepared(
    potential: Potential | str | os.PathLike[str],
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    radial: str | None,
    backend: str | None,
) -> Potential:
    if not isinstance(potential, Potential):
        loaded = load_potential(
            potential, dtype=dtype, device=device or "cpu", radial=radial, backend=backend, check=True
        )
        return loaded.requires_grad_(False)
    place = next(potential.parameters()).device
    new_dtype = potential.dtype if dtype is None else as_dtype(dtype)
    new_place = place if device is None else as_device(device)
    new_radial = [part.radial if radial is None else radial_choice(radial) for part in potential.parts()]
    if (new_dtype, new_place, new_radial) != (potential.dtype, place, [part.radial for part in potential.parts()]):
        potential = converted(potential, new_dtype, new_place)
        potential = potential if radial is None else potential.choose_radial(radial)
    if backend is not None:
        use_backend(potential, backend, training=False)
    return potential
