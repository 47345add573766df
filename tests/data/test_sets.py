"""Sets of structures: batches, masks, hashes."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from equipot.data import Dataset, read_frames


@pytest.fixture
def frames(write, cluster, crystal):
    return read_frames([write("a.xyz", [cluster(0), cluster(1, "CO")]), write("b.traj", crystal(0))]).frames


def test_batch_is_its_structures_side_by_side(frames):
    dataset = Dataset(frames, 3.5)
    batch = dataset.batch([2, 0])
    assert batch.names == (frames[2].name, frames[0].name)
    assert batch.graph.system.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.graph.num_edges == dataset.graphs[2].num_edges + dataset.graphs[0].num_edges
    np.testing.assert_array_equal(batch.labels.forces[:4], frames[2].forces)
    np.testing.assert_array_equal(batch.labels.forces[4:], frames[0].forces)
    assert batch.labels.energy.tolist() == [frames[2].energy, frames[0].energy]
    assert batch.labels.energy.dtype == torch.float64
    np.testing.assert_array_equal(batch.labels.stress[0], frames[2].stress)
    assert batch.labels.stress[1].isnan().all()


def test_values_of_a_set(frames):
    dataset = Dataset(frames, 3.5)
    assert len(dataset) == 3
    assert dataset.num_atoms.tolist() == [3, 2, 4]
    assert dataset.species == (6, 8, 29)
    assert dataset.config_types == ["Default"] * 3
    shortest = [graph.vectors().norm(dim=1).min() for graph in dataset.graphs]
    np.testing.assert_allclose(dataset.min_distances, shortest)


def test_progress_is_told_of_every_structure(frames):
    calls = []
    Dataset(frames, 3.0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_hash_is_of_the_content_and_of_nothing_else(frames):
    reference = Dataset(frames, 3.0).hash()
    assert len(reference) == 64
    renamed = [replace(frame, source="elsewhere.xyz", index=7) for frame in frames]
    assert Dataset(renamed, 4.0).hash() == reference
    assert Dataset(frames[::-1], 3.0).hash() != reference
    moved = frames[0].atoms.copy()
    moved.positions[0, 0] += 1e-9
    changes = {
        "atoms": moved,
        "energy": frames[0].energy + 1e-9,
        "forces": -frames[0].forces,
        "weight": 2.0,
        "config_type": "other",
        "stress": np.eye(3),
    }
    for name, value in changes.items():
        altered = [replace(frames[0], **{name: value}), *frames[1:]]
        assert Dataset(altered, 3.0).hash() != reference, name


def test_selection_is_the_same_as_a_new_set(frames):
    dataset = Dataset(frames, 3.0)
    part = dataset.select([2, 1])
    assert part.hash() == Dataset([frames[2], frames[1]], 3.0).hash()
    assert part.num_atoms.tolist() == [4, 2]
    assert part.graphs[0] is dataset.graphs[2]
    assert len(dataset) == 3


def test_moving_to_a_device_keeps_everything(frames):
    batch = Dataset(frames, 3.0).batch([0, 1, 2])
    moved = batch.to("cpu")
    for field in fields(batch.labels):
        torch.testing.assert_close(getattr(moved.labels, field.name), getattr(batch.labels, field.name), equal_nan=True)
    assert moved.names == batch.names
