"""E0s of a model that is trained further: which are chosen, that a shifted reference is found, and forces untouched."""

import dataclasses

import numpy as np
import pytest
import small
import torch

from equipot.data.atomic_energies import AtomicEnergies
from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.metrics import predictions
from equipot.fit.reference import energies_left, find_reference, model_energies, with_energies
from equipot.geometry import evaluate
from equipot.models.model_file import fingerprint, load_potential, save_potential

SHIFT = {1: -13.5, 6: -1030.25, 8: -2041.75, 29: 4.0}


def own_labels(model, count: int, shift: dict[int, float], noise: float = 0.0) -> Dataset:
    """Structures whose energies are the model's own, of another reference."""
    rng = np.random.default_rng(5)
    data, frames = small.dataset(count), []
    for (i,), _, predicted in predictions(model, data, range(count), 1):
        frame = data.frames[i]
        moved = sum(shift[z] for z in frame.atoms.numbers.tolist())
        energy = float(predicted.energy[0]) + moved + noise * len(frame.atoms) * rng.normal()
        frames.append(dataclasses.replace(frame, energy=energy, forces=predicted.forces.numpy()))
    return Dataset(frames, small.R_MAX)


def changes(model, reference) -> dict[int, float]:
    own = model_energies(model)
    return {z: energy - own[z] for z, energy in reference.energies.items()}


@pytest.mark.parametrize("axes", [{}, {"energy_reference": "mean_shift"}, {"trainable_e0": True}])
def test_a_shifted_reference_is_recovered_and_forces_are_untouched(axes):
    """Three compositions do not determine the E0s of four elements, but every energy."""
    model = small.potential(**axes)
    data = own_labels(model, 12, SHIFT)
    reference = find_reference(model, data, "refit", None)
    moved = with_energies(model, reference.energies, reference.source)
    assert np.abs(energies_left(moved, data)).max() < 1e-9
    assert reference.remainders["keep"] > 100.0
    assert reference.remainders["refit"] < 1e-9
    assert reference.determined == 3
    batch = data.batch(range(12))
    before, after = evaluate(model, batch.graph), evaluate(moved, batch.graph)
    assert torch.equal(before.forces, after.forces)
    assert torch.equal(before.virial, after.virial)
    assert moved.statistics.atomic_energies_source == "least_squares"


def test_what_compositions_determine_is_recovered_element_by_element():
    model = small.potential()
    frames = [f for f in own_labels(model, 12, SHIFT).frames if 29 not in f.atoms.numbers]
    frames += [without(model, f, 0) for f in frames]
    data = Dataset(frames, small.R_MAX)
    found = changes(model, find_reference(model, data, "refit", None))
    assert found == pytest.approx({z: SHIFT[z] for z in (1, 6, 8)}, abs=1e-7)


def without(model, frame, atom):
    """The structure without an atom, with the model's own energy of the shifted reference."""
    atoms = frame.atoms.copy()
    del atoms[atom]
    bare = Dataset([dataclasses.replace(frame, atoms=atoms, energy=0.0, forces=None)], small.R_MAX)
    energy = float(evaluate(model, bare.batch([0]).graph).energy[0]) + sum(SHIFT[z] for z in atoms.numbers.tolist())
    return dataclasses.replace(frame, atoms=atoms, energy=energy, forces=None)


def test_elements_that_the_data_lack_keep_their_energies_to_the_bit():
    model = small.potential()
    water = [f for f in own_labels(model, 6, SHIFT).frames if 8 in f.atoms.numbers]
    reference = find_reference(model, Dataset(water, small.R_MAX), "refit", None)
    assert set(reference.energies) == {1, 8}
    moved, own = model_energies(with_energies(model, reference.energies, "least_squares")), model_energies(model)
    assert (moved[6], moved[29]) == (own[6], own[29])
    assert moved[8] != own[8]


def test_the_choice_follows_from_what_is_left_of_the_energies():
    model = small.potential()
    same, other = own_labels(model, 12, dict.fromkeys(SHIFT, 0.0), noise=0.004), own_labels(model, 12, SHIFT, 0.004)
    own = model_energies(model)
    given = AtomicEnergies({z: own[z] + SHIFT[z] for z in own}, "isolated_atoms")
    assert find_reference(model, same, "auto", None).choice == "keep"
    assert find_reference(model, other, "auto", None).choice == "refit"
    assert find_reference(model, other, "auto", given).choice == "data"
    assert find_reference(model, same, "auto", given).choice == "keep"
    assert find_reference(model, other, "keep", given).source is None
    assert find_reference(model, other, "data", given).energies == given.energies
    assert set(find_reference(model, other, "auto", given).remainders) == {"keep", "data", "refit"}


def test_isolated_atoms_do_not_replace_fitted_energies_by_themselves():
    """The interaction energies of such a model do not count from isolated atoms."""
    model = with_energies(small.potential(), {}, "least_squares")
    data = own_labels(model, 12, SHIFT, 0.004)
    given = AtomicEnergies({z: e + SHIFT[z] for z, e in model_energies(model).items()}, "isolated_atoms")
    assert find_reference(model, data, "auto", given).choice == "refit"
    assert find_reference(model, data, "data", given).choice == "data"
    far = AtomicEnergies({z: e + SHIFT[z] + 5.0 for z, e in model_energies(model).items()}, "isolated_atoms")
    assert find_reference(small.potential(), data, "auto", far).choice == "refit"
    mean = small.potential(energy_reference="mean_shift")
    with pytest.raises(EquipotError, match="one mean energy per atom"):
        find_reference(mean, data, "data", given)


def test_what_cannot_be_done_is_said():
    model = small.potential()
    data = own_labels(model, 3, SHIFT)
    with pytest.raises(EquipotError, match="no isolated atoms of all their elements"):
        find_reference(model, data, "data", None)
    unlabelled = Dataset([dataclasses.replace(frame, energy=None) for frame in data.frames], small.R_MAX)
    assert find_reference(model, unlabelled, "auto", None).choice == "keep"
    with pytest.raises(EquipotError, match="no energies"):
        find_reference(model, unlabelled, "refit", None)


def test_changed_energies_are_saved(tmp_path):
    moved = with_energies(small.potential(energy_reference="mean_shift"), {8: -5.0}, "least_squares")
    save_potential(tmp_path / "m.equipot", moved)
    assert fingerprint(load_potential(tmp_path / "m.equipot")) == fingerprint(moved)
