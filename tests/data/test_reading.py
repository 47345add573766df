"""What is read from files: keys and their precedence, stress and virial, formats, weights."""

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equipot.data import DataOptions, Dataset, Keys, load, read_frames


def renamed(frame, energy, forces):
    frame = frame.copy()
    frame.info[energy] = frame.info.pop("REF_energy")
    frame.arrays[forces] = frame.arrays.pop("REF_forces")
    return frame


@pytest.mark.parametrize(
    "energy", ["REF_energy", "DFT_energy", "dft_energy", "energy", "Energy", "total_energy", "free_energy"]
)
@pytest.mark.parametrize("forces", ["REF_forces", "DFT_forces", "forces", "force", "Forces"])
def test_keys_of_public_files_are_recognised(write, cluster, energy, forces):
    frames = [cluster(i) for i in range(3)]
    reading = read_frames(write("a.xyz", [renamed(frame, energy, forces) for frame in frames]))
    for read, frame in zip(reading.frames, frames, strict=True):
        assert read.energy == pytest.approx(frame.info["REF_energy"], abs=1e-9)
        np.testing.assert_allclose(read.forces, frame.arrays["REF_forces"], atol=1e-7)
    assert reading.files[0].labels["energy"].keys == {energy: 3}
    assert reading.files[0].labels["forces"].keys == {forces: 3}
    assert reading.warnings == []


def test_reference_before_method_before_plain_before_calculator(write, cluster):
    frame = cluster(0)
    values = {"REF_energy": 1.0, "dft_energy": 2.0, "Energy": 3.0}
    frame.info.update(values)
    frame.calc = SinglePointCalculator(frame, energy=4.0, free_energy=5.0)
    order = [*values, "energy", "free_energy"]
    for number, name in enumerate(order, start=1):
        reading = read_frames(write("a.traj", [frame]))
        assert reading.frames[0].energy == number
        assert len(reading.warnings) == len(order) - number
        if name in values:
            del frame.info[name]
        else:
            frame.calc.results.pop(name)


def test_a_second_key_with_other_values_is_reported(write, cluster):
    frames = [cluster(i) for i in range(3)]
    for frame in frames:
        frame.info["mace_energy"] = 0.0
        frame.info["energy"] = frame.info["REF_energy"] + 0.25
    (warning,) = read_frames(write("a.xyz", frames)).warnings
    assert "taken from 'REF_energy'; 'energy'" in warning
    assert "3 of 3 frames, by up to 0.25" in warning
    assert "data.energy_key: energy" in warning


def test_a_second_key_with_the_same_values_is_not_reported(write, cluster):
    frame = cluster(0)
    frame.info["energy"] = frame.info["REF_energy"]
    assert read_frames(write("a.xyz", frame)).warnings == []


def test_free_energy_that_differs_is_named_as_what_forces_derive_from(write, cluster):
    frame = renamed(cluster(0), "energy", "forces")
    frame.info["free_energy"] = frame.info["energy"] - 0.1
    reading = read_frames(write("a.xyz", frame))
    assert reading.frames[0].energy == pytest.approx(frame.info["energy"])
    assert "data.energy_key: free_energy would agree with them" in reading.warnings[0]


def test_named_keys_in_order_of_preference(write, cluster):
    frames = [cluster(0), renamed(cluster(1), "dft_energy", "REF_forces")]
    path = write("a.xyz", frames)
    energies = [frames[0].info["REF_energy"], frames[1].info["dft_energy"]]
    both = read_frames(path, Keys(energy=("REF_energy", "dft_energy")))
    assert [f.energy for f in both.frames] == pytest.approx(energies)
    assert both.files[0].labels["energy"].keys == {"REF_energy": 1, "dft_energy": 1}
    one = read_frames(path, Keys(energy=("REF_energy",)))
    assert [f.energy is None for f in one.frames] == [False, True]
    assert one.files[0].labels["energy"].missing == 1


def test_missing_labels_are_masked_and_counted(write, cluster):
    frames = [cluster(i) for i in range(6)]
    del frames[4].arrays["REF_forces"]
    del frames[5].info["REF_energy"]
    path = write("a.xyz", frames)
    data = load(DataOptions(train=path, valid={"indices": [0]}), 3.0)
    labels = data.train.batch(range(5)).labels
    assert labels.energy.isnan().tolist() == [False, False, False, False, True]
    assert labels.forces.isnan().all(dim=1).sum() == 3
    assert "train: 5 structures have forces, 1 do not (masked in the loss)." in data.notes
    assert "train: 5 structures have energy, 1 do not (masked in the loss)." in data.notes


# stress


def stress_of(write, frame, name="a.xyz", **info):
    frame = frame.copy()
    frame.info.update(REF_energy=1.0, **info)
    reading = read_frames(write(name, frame))
    return reading.frames[0], reading


def test_stress_in_every_form_is_the_same_tensor(write, crystal):
    crystal = crystal(0)
    σ, V = crystal.get_stress(voigt=False), crystal.get_volume()
    σ = σ + np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]]) * 1e-3
    voigt = np.array([σ[0, 0], σ[1, 1], σ[2, 2], σ[1, 2], σ[0, 2], σ[0, 1]])
    for info in (
        {"REF_stress": σ.reshape(9)},
        {"REF_stress": voigt},
        {"REF_virial": -V * voigt},
        {"REF_virials": (-V * σ).reshape(9)},
        {"virial": -V * σ},
        {"virials": (-V * σ).reshape(9)},
        {"stress": σ},
    ):
        frame, _ = stress_of(write, crystal, **info)
        np.testing.assert_allclose(frame.stress, σ, atol=1e-8)
        np.testing.assert_allclose(frame.virial, -V * σ, atol=1e-6)


def test_plain_stress_of_six_numbers_in_xyz(write, crystal, tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text('1\nLattice="3 0 0 0 3 0 0 0 3" stress="1 2 3 4 5 6" energy=-1.0 pbc="T T T"\nCu 0 0 0\n')
    expected = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    np.testing.assert_array_equal(read_frames(path).frames[0].stress, expected)


def test_stress_from_a_calculator(write, crystal):
    crystal = crystal(1)
    frame = read_frames(write("a.traj", crystal)).frames[0]
    np.testing.assert_allclose(frame.stress, crystal.get_stress(voigt=False), atol=1e-12)
    assert frame.energy == pytest.approx(crystal.get_potential_energy())


def test_stress_is_the_derivative_of_the_energy(write, crystal):
    crystal = crystal(2)
    frame = read_frames(write("a.traj", crystal)).frames[0]
    ε, energies = 1e-5, []
    for sign in (1, -1):
        strained = crystal.copy()
        strained.calc = crystal.calc
        strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * ε * np.diag([0, 1, 0])), scale_atoms=True)
        energies.append(strained.get_potential_energy())
    assert frame.stress[1, 1] == pytest.approx((energies[0] - energies[1]) / (2 * ε * crystal.get_volume()), abs=1e-7)
    assert frame.virial[1, 1] == pytest.approx(-(energies[0] - energies[1]) / (2 * ε), abs=1e-5)


def test_virial_that_contradicts_the_stress_is_reported(write, crystal):
    crystal = crystal(0)
    σ = crystal.get_stress(voigt=False)
    frame, reading = stress_of(
        write, crystal, REF_stress=σ.reshape(9), REF_virial=(crystal.get_volume() * σ).reshape(9)
    )
    np.testing.assert_allclose(frame.stress, σ, atol=1e-8)
    assert "stress and virial have the same sign, but virial = −V stress" in reading.warnings[0]


def test_virial_of_a_slab_is_kept_masked_and_counted(write, crystal):
    slab = crystal(0)
    slab.info["virial"] = np.eye(3)
    slab.pbc = (True, True, False)
    slab.calc.results.pop("stress")
    reading = read_frames(write("a.extxyz", [slab]))
    assert reading.frames[0].virial is not None
    assert reading.frames[0].stress is None
    assert reading.files[0].labels["virial"].masked == 1
    assert "1 masked" in reading.summary()[0]["virial"]


def test_stress_of_a_slab_is_masked_and_counted(write, crystal):
    slab = crystal(0)
    slab.pbc = (True, True, False)
    σ, W = np.full(9, 0.1), np.full(9, -3.0)
    frame, reading = stress_of(write, slab, REF_stress=σ, REF_virial=W)
    assert frame.stress is None
    np.testing.assert_allclose(frame.virial, W.reshape(3, 3))
    summary = reading.files[0].labels["stress"]
    assert (summary.frames, summary.masked, summary.missing) == (0, 1, 0)
    assert "1 masked" in reading.summary()[0]["stress"]
    batch = Dataset(reading.frames, 3.0).batch([0])
    assert batch.labels.stress.isnan().all()
    assert batch.labels.virial.isfinite().all()


def test_zero_stress_of_a_molecule_is_a_placeholder(write, cluster):
    frame, reading = stress_of(write, cluster(0), REF_stress=np.zeros(9))
    assert frame.stress is None
    assert reading.files[0].labels["stress"].masked == 1


# formats


def test_every_format_gives_the_same_set(write, crystal):
    frames = [crystal(i) for i in range(3)]
    for frame in frames:
        frame.calc.results = {k: frame.calc.results[k] for k in ("energy", "forces", "stress")}
    names = ["a.traj", "a.db", "a.json", "a.traj.gz", "a.json.bz2", "a.db.xz"]
    paths = [write(name, frames) for name in names[:3]]
    for name in names[3:]:
        paths.append(compressed(paths[0].replace("a.traj", name.rsplit(".", 1)[0]), name.rsplit(".", 1)[1]))
    hashes = {path: Dataset(read_frames(path).frames, 3.0).hash() for path in paths}
    assert len(set(hashes.values())) == 1, hashes


def compressed(path, how):
    import bz2
    import gzip
    import lzma

    opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[how]
    with open(path, "rb") as source, opener(f"{path}.{how}", "wb") as target:
        target.write(source.read())
    return f"{path}.{how}"


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "structures"])
def test_xyz_under_any_name_and_compressed(write, cluster, name):
    frames = [cluster(i) for i in range(3)]
    path = write(name, frames, format="extxyz")
    plain, zipped = read_frames(path), read_frames(compressed(path, "gz"))
    assert plain.files[0].format == zipped.files[0].format == "extxyz"
    assert Dataset(plain.frames, 3.0).hash() == Dataset(zipped.frames, 3.0).hash()


def test_labels_in_the_columns_of_a_database(tmp_path, crystal):
    path = tmp_path / "a.db"
    with ase.db.connect(path) as database:
        for i in range(3):
            database.write(crystal(i), dft_energy=float(i), config_type="strained")
    reading = read_frames(path)
    assert [frame.energy for frame in reading.frames] == [0.0, 1.0, 2.0]
    assert reading.frames[0].config_type == "strained"
    assert "'energy' of the calculator differs" in reading.warnings[0]


def test_several_files_are_read_in_order(write, cluster):
    paths = [write("a.xyz", [cluster(0), cluster(1)]), write("b.xyz", cluster(2))]
    reading = read_frames(paths)
    assert reading.names == [f"{paths[0]}#0", f"{paths[0]}#1", f"{paths[1]}#0"]
    assert [file.frames for file in reading.files] == [2, 1]


def test_frames_keep_no_labels_in_their_structures(write, cluster):
    atoms = read_frames(write("a.xyz", cluster(0))).frames[0].atoms
    assert atoms.calc is None
    assert atoms.info == {}
    assert set(atoms.arrays) == {"numbers", "positions"}


# isolated atoms, weights, groups


def test_isolated_atoms_are_set_apart(clusters, write, cluster):
    reading = read_frames(clusters)
    assert len(reading.frames) == 12
    assert reading.isolated_atoms == {6: -1029.0, 8: -2041.0}
    assert reading.summary()[0]["isolated atoms"] == 2
    assert reading.summary()[0]["energy"] == "REF_energy (14)"


@pytest.mark.parametrize("kind", ["IsolatedAtom", "isolated_atom", "isolated atom"])
def test_isolated_atoms_may_be_in_a_box(write, kind):
    boxed = Atoms("Cu", cell=[12, 12, 12], pbc=True, info={"config_type": kind, "REF_energy": -0.1})
    assert read_frames(write("a.xyz", boxed)).isolated_atoms == {29: -0.1}


def test_one_atom_in_a_periodic_cell_is_a_structure(write):
    primitive = Atoms("Cu", cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=True, info={"REF_energy": -3.5})
    reading = read_frames(write("a.xyz", primitive))
    assert len(reading.frames) == 1
    assert reading.isolated == []


def test_weights_multiply(write, cluster):
    frames = [cluster(i) for i in range(4)]
    for i, frame in enumerate(frames):
        frame.info.update(config_type=["bulk", "liquid"][i % 2], config_weight=3.0, config_forces_weight=0.5)
    path = write("a.xyz", frames)
    options = DataOptions(train=path, valid={"indices": [0]}, config_type_weights={"liquid": 2.0, "Default": 0.1})
    labels = load(options, 3.0).train.batch([0, 1, 2]).labels
    assert labels.energy_weight.tolist() == pytest.approx([6.0, 0.3, 6.0])
    assert labels.forces_weight.tolist() == pytest.approx([3.0, 0.15, 3.0])
    assert labels.stress_weight.tolist() == pytest.approx([6.0, 0.3, 6.0])


def test_config_types_are_names_even_where_they_are_numbers(write, cluster):
    frames = [cluster(i) for i in range(3)]
    for frame in frames:
        frame.info["config_type"] = 300
    reading = read_frames(write("a.xyz", frames))
    assert reading.files[0].config_types == {"300": 3}
    assert DataOptions(train="a", config_type_weights={300: 2.0}).config_type_weights == {"300": 2.0}


def test_unwrapped_atoms_have_the_same_neighbours(write, crystal):
    wrapped = crystal(0)
    unwrapped = wrapped.copy()
    unwrapped.calc = wrapped.calc
    unwrapped.positions += np.array([[2, 0, 0], [0, -3, 0], [0, 0, 0], [1, 1, 5]]) @ wrapped.cell.array
    sets = [
        Dataset(read_frames(write(name, frame)).frames, 4.0)
        for name, frame in (("a.xyz", wrapped), ("b.xyz", unwrapped))
    ]
    lengths = [np.sort(each.graphs[0].vectors().norm(dim=1).numpy()) for each in sets]
    np.testing.assert_allclose(*lengths, atol=1e-6)
