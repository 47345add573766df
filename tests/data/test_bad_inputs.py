"""Every bad input gives an error that names file, frame, what was found, and what to write."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equipot.data import DataOptions, load, load_set, read_frames
from equipot.data.options import Keys
from equipot.errors import EquipotError


@pytest.fixture
def refuse():
    """Loads a file for training and asserts what the error says, words of each part in order."""

    def _refuse(path, *parts, **options):
        with pytest.raises(EquipotError) as caught:
            load(DataOptions(train=path, **options), r_max=3.0)
        message = str(caught.value)
        for part in parts:
            assert re.search(part, message), f"'{part}' is not in: {message}"
        return message

    return _refuse


def altered(frames, index, **changes):
    for key, value in changes.items():
        target = frames[index].arrays if isinstance(value, np.ndarray) and value.ndim == 2 else frames[index].info
        target[key] = value
    return frames


# files


def test_file_that_does_not_exist_names_the_nearest(clusters, refuse):
    refuse(clusters.replace("train.xyz", "trian.xyz"), "trian.xyz does not exist", r"Did you mean .*train\.xyz\?")


def test_folder_that_does_not_exist(tmp_path, refuse):
    refuse(str(tmp_path / "nowhere" / "a.xyz"), "there is no folder .*nowhere")


def test_folder_in_place_of_a_file(clusters, refuse):
    refuse(str(Path(clusters).parent), "is a folder; give a file", r"such as .*train\.xyz")


def test_empty_file(tmp_path, refuse):
    path = tmp_path / "empty.xyz"
    path.touch()
    refuse(str(path), r"empty\.xyz is empty \(0 bytes\)", "extended XYZ")


def test_unreadable_format(tmp_path, refuse):
    path = tmp_path / "notes.foo"
    path.write_text("these are not structures\n")
    refuse(str(path), r"notes\.foo has no format that can be recognised", "extended XYZ")


def test_zip_in_place_of_xyz(tmp_path, refuse):
    path = tmp_path / "data.xyz"
    path.write_bytes(b"PK\x03\x04 not text at all\n")
    refuse(str(path), r"line 1: frame 0 should begin here with its number of atoms", "not XYZ")


def test_truncated_compressed_file(clusters, refuse):
    data = gzip.compress(Path(clusters).read_bytes())
    path = Path(clusters).with_suffix(".xyz.gz")
    path.write_bytes(data[: len(data) // 2])
    refuse(str(path), r"train\.xyz\.gz cannot be decompressed", "truncated")


def test_file_that_is_cut_off(clusters, refuse):
    text = Path(clusters).read_text().splitlines(keepends=True)
    Path(clusters).write_text("".join(text[:13]))
    refuse(clusters, "frame 2: line 11 announces 3 atoms, but the file ends", "cut off")


def test_wrong_number_of_atoms_in_an_xyz_header(clusters, refuse):
    lines = Path(clusters).read_text().splitlines(keepends=True)
    lines[5] = "2\n"
    Path(clusters).write_text("".join(lines))
    refuse(clusters, "line 10: frame 2 should begin here", "frame 1 has more or fewer lines")


def test_blank_line_between_frames_would_lose_the_rest(clusters, refuse):
    lines = Path(clusters).read_text().splitlines(keepends=True)
    Path(clusters).write_text("".join([*lines[:5], "\n", *lines[5:]]))
    refuse(clusters, "line 6 is blank", "frames behind it would be lost", "Remove blank lines")


def test_number_that_cannot_be_read(clusters, refuse):
    lines = Path(clusters).read_text().splitlines(keepends=True)
    lines[7] = "C  ********  0.0 0.0 0.0 0.0 0.0\n"
    Path(clusters).write_text("".join(lines))
    refuse(clusters, "frame 1: cannot be read as extxyz", r"\*\*\*\*")


def test_unknown_element_symbol(clusters, refuse):
    lines = Path(clusters).read_text().splitlines(keepends=True)
    lines[7] = "Qq" + lines[7][1:]
    Path(clusters).write_text("".join(lines))
    refuse(clusters, "frame 1: cannot be read", "unknown chemical symbol or key 'Qq'")


def test_structures_without_labels_from_another_program(write, crystal, refuse):
    message = refuse(write("POSCAR", crystal(0)), "POSCAR, frame 0: has no energy, forces, stress or virial")
    assert "no further keys" in message


def test_same_file_twice(clusters, refuse):
    refuse([clusters, clusters], r"data\.train names .*train\.xyz twice")


# keys


def test_misspelt_forces_key(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.arrays["REF_forcs"] = frame.arrays.pop("REF_forces")
    refuse(
        write("a.xyz", frames),
        r"a\.xyz: no frame has forces",
        "Keys found: REF_energy, REF_forcs",
        r"data\.forces_key: REF_forcs",
    )


def test_misspelt_energy_key(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["enregy"] = frame.info.pop("REF_energy")
    refuse(write("a.xyz", frames), "no frame has an energy", r"data\.energy_key: enregy")


def test_unusual_energy_key_is_suggested(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["ccsd_t_energy"] = frame.info.pop("REF_energy")
    refuse(write("a.xyz", frames), "no frame has an energy", r"If 'ccsd_t_energy' holds the energy in eV")


def test_short_energy_key_is_suggested(write, cluster, refuse):
    frames = [cluster(i) for i in range(3)]
    for frame in frames:
        frame.info["E"] = frame.info.pop("REF_energy")
    refuse(write("a.xyz", frames), "If 'E' holds the energy in eV, write data.energy_key: E")


def test_no_forces_at_all_asks_for_an_explicit_choice(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        del frame.arrays["REF_forces"]
    refuse(write("a.xyz", frames), "no frame has forces", r"data\.forces_key: none if the data have none")


def test_gradients_are_not_forces(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.arrays["gradient"] = -frame.arrays.pop("REF_forces")
    refuse(write("a.xyz", frames), "'gradient' is the gradient, minus the forces", "store its negative as 'REF_forces'")


def test_columns_of_forces_that_no_properties_name(tmp_path, refuse):
    path = tmp_path / "plain.xyz"
    path.write_text("2\nenergy=-27.0\nH 0 0 0 0.1 0 0\nH 0 0 0.8 -0.1 0 0\n" * 3)
    refuse(str(path), "no frame has forces", "7 columns", "REF_forces:R:3")


def test_named_key_that_no_frame_has(clusters, refuse):
    refuse(
        clusters,
        r"no frame has an energy under 'REF_enrgy' \(data\.energy_key\)",
        r"data\.energy_key: REF_energy",
        energy_key="REF_enrgy",
    )


def test_key_missing_in_one_frame_while_another_could_replace_it(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[2].info["dft_energy"] = frames[2].info.pop("REF_energy")
    refuse(
        write("a.xyz", frames),
        "frame 2: has no 'REF_energy'.* but has 'dft_energy'",
        re.escape("data.energy_key: [REF_energy, dft_energy]"),
    )


def test_frame_without_labels(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    del frames[3].info["REF_energy"], frames[3].arrays["REF_forces"]
    refuse(write("a.xyz", frames), "frame 3: has no energy, forces, stress or virial", "Remove the frame")


# labels


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_energy_that_is_not_finite(write, cluster, refuse, value):
    frames = altered([cluster(i) for i in range(4)], 2, REF_energy=value)
    refuse(write("a.xyz", frames), rf"frame 2: 'REF_energy' is {value}", "finite numbers in eV", "Remove the frame")


def test_energy_that_is_no_number(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 1, REF_energy="unconverged")
    refuse(write("a.xyz", frames), "frame 1: 'REF_energy' is 'unconverged', which is not numeric")


def test_energy_without_value(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 1, REF_energy=True)
    refuse(write("a.xyz", frames), "frame 1: 'REF_energy' is True, which is not numeric")


def test_energy_of_many_numbers(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 1, REF_energy=np.array([1.0, 2.0]))
    refuse(write("a.xyz", frames), "frame 1: 'REF_energy' holds 2 numbers; the energy of a structure is one number")


def test_forces_that_are_not_finite(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[1].arrays["REF_forces"][2, 0] = np.nan
    refuse(write("a.xyz", frames), "frame 1: 'REF_forces' is nan on atom 2", "finite numbers in eV/Å")


def test_forces_on_the_wrong_number_of_atoms(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        forces = frame.arrays.pop("REF_forces")
        frame.calc = SinglePointCalculator(frame, energy=frame.info.pop("REF_energy"), forces=forces)
    frames[2].calc.results["forces"] = np.zeros((2, 3))
    refuse(write("a.traj", frames), r"frame 2: 'forces' has shape \[2, 3\], but the frame has 3 atoms", r"\[3, 3\]")


def test_forces_with_two_components(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.arrays["REF_forces"] = frame.arrays["REF_forces"][:, :2]
    refuse(write("a.xyz", frames), r"frame 0: 'REF_forces' has shape \[3, 2\]", "three numbers for each atom")


def test_stress_of_the_wrong_size(write, crystal, refuse):
    frames = [crystal(i) for i in range(4)]
    frames[1].info["REF_stress"] = np.zeros(5)
    refuse(write("a.xyz", frames), "frame 1: 'REF_stress' has 5 numbers", "nine", "six", stress_key="REF_stress")


def test_plain_stress_of_the_wrong_size_in_xyz(write, crystal, refuse):
    path = Path(write("a.xyz", [crystal(i) for i in range(4)]))
    path.write_text(re.sub(r'stress="[^"]*"', 'stress="1 2 3 4"', path.read_text()))
    refuse(str(path), "frame 0: 'stress' has 4 numbers; a stress or virial has nine")


def test_stress_that_is_not_symmetric(write, crystal, refuse):
    frames = [crystal(i) for i in range(4)]
    frames[1].info["REF_stress"] = np.arange(9.0)
    refuse(write("a.xyz", frames), "frame 1: 'REF_stress' is not symmetric", stress_key="REF_stress")


def test_stress_of_a_molecule(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 0, REF_stress=np.full(9, 0.1))
    refuse(
        write("a.xyz", frames),
        r"frame 0: has a stress \('REF_stress'\) but no periodic direction",
        'pbc="T T T"',
        r"data\.stress_key: none",
    )


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_weight_that_is_negative_or_not_finite(write, cluster, refuse, weight):
    frames = altered([cluster(i) for i in range(4)], 1, config_energy_weight=weight)
    refuse(write("a.xyz", frames), f"frame 1: config_energy_weight = {weight}; a weight is one finite number ≥ 0")


def test_misspelt_weight(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 1, config_wieght=2.0)
    refuse(write("a.xyz", frames), "frame 1: 'config_wieght' is not a weight; did you mean 'config_weight'")


def test_all_weights_zero(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["config_weight"] = 0
    refuse(write("a.xyz", frames), "all 3 training structures have weight 0")


# structures


def test_position_that_is_not_finite(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[3].positions[1, 2] = np.nan
    refuse(write("a.xyz", frames), r"frame 3: the position of atom 1 \(O\) is .*nan", "finite, in Å")


def test_two_atoms_on_top_of_each_other(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[1].positions[2] = frames[1].positions[0] + [0, 0, 0.05]
    refuse(
        write("a.xyz", frames),
        r"frame 1: atoms 0 \(C\) and 2 \(O\) are 0\.0500 Å apart",
        "Remove the frame",
        valid={"indices": [0]},
    )


def test_fractional_coordinates(write, crystal, refuse):
    frames = [crystal(i) for i in range(4)]
    for frame in frames:
        frame.positions = frame.get_scaled_positions() * 0.2
    refuse(write("a.xyz", frames), "look like fractional coordinates", valid={"indices": [0]})


def test_periodic_without_a_cell(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[2].pbc = True
    refuse(write("a.xyz", frames), 'frame 2: pbc is "T T T" but the cell .* has no volume', 'pbc="F F F"')


def test_cell_with_dependent_vectors(write, crystal, refuse):
    frames = [crystal(i) for i in range(4)]
    frames[1].cell[1] = 2 * frames[1].cell[0]
    refuse(write("a.xyz", frames), "frame 1: pbc is .* has no volume along the periodic directions")


def test_cell_that_is_far_too_small(write, crystal, refuse):
    frames = [crystal(i) for i in range(4)]
    frames[1].set_cell(0.2 * frames[1].cell.array)
    refuse(write("a.xyz", frames), "frame 1: the cell has .* Å³ per atom", "bohr")


def test_dummy_atom(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    frames[1].numbers[0] = 0
    refuse(write("a.xyz", frames), "frame 1: atom 0 is the dummy element 'X'")


def test_frame_without_atoms(write, cluster, refuse):
    frames = [cluster(0), Atoms(info={"REF_energy": 0.0}), cluster(1)]
    refuse(write("a.traj", frames), "frame 1: the frame has no atoms")


# energies of isolated atoms


def test_isolated_atom_missing_for_an_element(write, cluster, atom, refuse):
    path = write("a.xyz", [*(cluster(i) for i in range(4)), atom("C")])
    refuse(path, r"no isolated-atom energy E0 for O", r"given: C\)", "least_squares")


def test_isolated_atoms_with_different_energies(write, cluster, atom, refuse):
    path = write("a.xyz", [*(cluster(i) for i in range(4)), atom("C"), atom("O"), atom("C", -1028.5)])
    refuse(path, r"frame 6: the isolated atom C has -1028\.5 eV, but -1029\.0 eV in .*frame 4", "Keep one")


def test_isolated_atom_without_energy(write, cluster, refuse):
    frames = [*(cluster(i) for i in range(4)), Atoms("C", info={"config_type": "IsolatedAtom"})]
    frames[-1].arrays["REF_forces"] = np.zeros((1, 3))
    refuse(write("a.xyz", frames), r"frame 4: an isolated atom \(C\) without energy")


def test_isolated_atom_type_on_a_molecule(write, cluster, refuse):
    frames = altered([cluster(i) for i in range(4)], 1, config_type="IsolatedAtom")
    refuse(write("a.xyz", frames), "frame 1: config_type is 'IsolatedAtom', but the frame has 3 atoms")


def test_isolated_atoms_asked_for_but_absent(write, cluster, refuse):
    path = write("a.xyz", [cluster(i) for i in range(4)])
    refuse(path, "training files have no isolated atoms", "C, O", "least_squares", atomic_energies="isolated_atoms")


def test_file_of_isolated_atoms_without_any(write, cluster, clusters, refuse):
    path = write("iso.xyz", [cluster(0)])
    refuse(clusters, r"iso\.xyz \(data\.atomic_energies\) has no isolated atoms", atomic_energies=path)


def test_unknown_way_to_get_atomic_energies(clusters, refuse):
    refuse(
        clusters,
        "'least_square' is neither a file nor one of",
        "Did you mean 'least_squares'",
        atomic_energies="least_square",
    )


def test_only_isolated_atoms(write, atom, refuse):
    refuse(write("a.xyz", [atom("C"), atom("O")]), "holds isolated atoms only, no structure for the train set")


def test_energies_in_hartree(write, cluster, atom, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["REF_energy"] /= 27.211386246
    path = write("a.xyz", [*frames, atom("C"), atom("O")])
    refuse(
        path,
        "frame 0: E = .* and ΣE0 = .* eV/atom",
        "energies look like hartree, and must be in eV",
        r"multiply them by 27\.211",
    )


def test_energies_of_interaction_with_total_E0(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["REF_energy"] += 1029.0 + 2 * 2041.0
    refuse(
        write("a.xyz", frames),
        "look like interaction energies, with the E0s already subtracted",
        re.escape("data.atomic_energies: {C: 0, O: 0}"),
        atomic_energies={"C": -1029.0, "O": -2041.0},
    )


def test_one_energy_that_does_not_fit(write, cluster, atom, refuse):
    frames = [cluster(i) for i in range(5)]
    frames[3].info["REF_energy"] += 5000.0
    refuse(
        write("a.xyz", [*frames, atom("C"), atom("O")]),
        "frame 3: .*eV/atom with E = ",
        r"1 of 4 frames lie more than 100 eV/atom away\. Such a frame did not converge",
        "correct or remove it",
        valid={"indices": [0]},
    )


def test_some_energies_in_hartree(write, cluster, atom, refuse):
    """All of them are named at once, with the unit that explains them."""
    frames = [cluster(i) for i in range(12)]
    for frame in frames[::3]:
        frame.info["REF_energy"] /= 27.211386246
    refuse(
        write("a.xyz", [*frames, atom("C"), atom("O")]),
        "4 of 11 frames lie more than 100 eV/atom away",
        r"a\.xyz frame 0, .*frame 3, .*frame 6, .*frame 9\)",
        r"They look like hartree, and must be in eV: multiply them by 27\.21",
        valid={"indices": [1]},
    )


def test_one_energy_that_does_not_fit_without_isolated_atoms(write, cluster, refuse):
    frames = [cluster(i) for i in range(5)]
    frames[3].info["REF_energy"] += 5000.0
    refuse(write("a.xyz", frames), "frame 3: .*did not converge", valid={"indices": [0]})


# split, sets, weights of groups


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.1])
def test_fraction_out_of_range(clusters, refuse, fraction):
    refuse(clusters, rf"data\.valid = {fraction}: a validation fraction lies between 0 and 1", valid=fraction)


def test_single_structure_cannot_be_split(write, cluster, refuse):
    refuse(write("a.xyz", [cluster(0)]), "1 structure.*needs at least two", r"data\.valid")


def test_index_out_of_range(clusters, refuse):
    refuse(
        clusters,
        r"data\.valid\.indices: 14 is out of range",
        "14 frames, numbered from 0 to 13",
        valid={"indices": [1, 14]},
    )


def test_negative_index(clusters, refuse):
    refuse(clusters, "-1 is out of range", valid={"indices": [-1]})


def test_index_of_an_isolated_atom(clusters, refuse):
    refuse(clusters, r"train\.xyz#12 is an isolated atom", valid={"indices": [12]})


def test_index_given_twice(clusters, refuse):
    refuse(clusters, r"names .*train\.xyz#3 2 times", valid={"indices": [3, 4, 3]})


def test_name_that_is_no_structure(clusters, refuse):
    refuse(clusters, "'train.xyz#99' is not a structure of the training files", valid={"indices": ["train.xyz#99"]})


def test_overlap_of_training_and_validation(clusters, refuse):
    refuse(clusters, r"1 structure\(s\) are in both", "#2", valid={"indices": [1, 2], "train_indices": [2, 3]})


def test_nothing_left_for_training(clusters, refuse):
    refuse(clusters, "takes every structure", valid={"indices": list(range(12))})


def test_file_of_indices_that_is_damaged(clusters, tmp_path, refuse):
    path = tmp_path / "split.json"
    path.write_text('{"train": [1, 2]}')
    refuse(clusters, r"split\.json is not a list of structures", '"valid"', valid={"indices": str(path)})


def test_file_of_indices_that_does_not_exist(clusters, refuse):
    refuse(clusters, "nowhere.txt is not a file", valid={"indices": "nowhere.txt"})


def test_element_in_validation_only(clusters, write, cluster, refuse):
    path = write("valid.xyz", [cluster(0), cluster(1, "CHO")])
    refuse(clusters, r"valid\.xyz, frame 1: contains H, unknown to the training set, which has C, O", valid=path)


def test_element_unknown_to_the_model(clusters, write, cluster):
    statistics = load(DataOptions(train=clusters), 3.0).statistics
    path = write("other.xyz", [cluster(0), cluster(1, "CHO")])
    with pytest.raises(EquipotError, match=r"other\.xyz, frame 1: contains H, unknown to the model, which has C, O"):
        load_set(path, 3.0, statistics)


def test_misspelt_key_in_a_test_set(clusters, write, cluster, refuse):
    frames = [cluster(i) for i in range(3)]
    for frame in frames:
        frame.arrays["REF_froces"] = frame.arrays.pop("REF_forces")
    path = write("test.xyz", frames)
    refuse(clusters, r"test\.xyz: no frame has forces", r"data\.forces_key: REF_froces", tests={"t": path})


def test_weight_of_an_unknown_config_type(write, cluster, refuse):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.info["config_type"] = "liquid"
    refuse(
        write("a.xyz", frames),
        "no training structure has config_type 'liqiud'",
        "Did you mean 'liquid'",
        config_type_weights={"liqiud": 2.0},
    )


def test_cutoff_without_any_neighbour(write, cluster):
    path = write("a.xyz", [cluster(i) for i in range(4)])
    with pytest.raises(
        EquipotError, match=r"no atom of the training set has a neighbour within design\.r_max = 0\.5 Å"
    ):
        load(DataOptions(train=path), 0.5)


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": "a.xyz"}, r"data\.trian is not an option\. Did you mean 'train'\?"),
        ({}, r"data\.train is missing"),
        ({"train": "a", "atomic_energies": {"Hx": 1.0}}, r"'Hx' is not a chemical symbol .*did you mean 'H"),
        ({"train": "a", "atomic_energies": {"H": np.nan}}, "the E0 of H is nan"),
        ({"train": "a", "atomic_energies": {False: 1.0}}, "put it in quotes"),
        ({"train": "a", "config_type_weights": {"bulk": -1}}, "the weight of config_type 'bulk' is -1"),
        ({"train": "a", "valid": {"indexes": [1]}}, r"data\.valid = .* is not allowed\. Allowed: validation"),
        ({"train": "a", "seed": -1}, r"data\.seed = -1 is not allowed\. Allowed: seed"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(EquipotError, match=message):
        DataOptions(**options)


def test_name_of_a_test_set_that_is_taken(clusters, refuse):
    refuse(clusters, r"data\.tests: 'valid' cannot be the name of a test set", tests={"valid": clusters})


def test_no_structures_for_a_set():
    from equipot.data import Dataset

    with pytest.raises(EquipotError, match="needs at least one structure"):
        Dataset([], 3.0)


def test_forces_may_be_left_out_explicitly(write, cluster):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        del frame.arrays["REF_forces"]
    data = load(DataOptions(train=write("a.xyz", frames), forces_key="none"), 3.0)
    assert any("forces: not read" in note for note in data.notes)
    assert data.train.batch([0, 1]).labels.forces.isnan().all()
    assert read_frames(write("b.xyz", frames), Keys(forces=("none",))).missing[0].label != "forces"
