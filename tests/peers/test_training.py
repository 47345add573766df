"""A training from a converted model walks the path of the published code: the same losses, step by step.

EQUIPOT_TRAINING_GOLDEN and EQUIPOT_TRAINING_DATA name another golden of train_mace.py and its structures.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from equipot.convert import CONVERTERS
from equipot.data.dataset import Dataset
from equipot.data.read import read_frames
from equipot.fit.loss import label_counts, label_errors, loss, loss_sums, training_prediction
from equipot.fit.optimise import build_optimiser
from equipot.fit.options import FitOptions
from equipot.kernels.backend import use_backend
from tests.kernels.fused import needs_compiler

from .golden import read_golden

HERE = Path(__file__).parent
GOLDEN = Path(os.environ.get("EQUIPOT_TRAINING_GOLDEN", HERE / "training" / "mace.npz"))
DATA = Path(os.environ.get("EQUIPOT_TRAINING_DATA", HERE.parents[1] / "examples" / "xtb_3bpa" / "train_300K.xyz.gz"))
OPTIONS = FitOptions(energy_weight=1.0, forces_weight=100.0, optimiser="amsgrad", lr=0.01, clip=10.0, ema_decay=None)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_compiler)])
def test_losses_of_a_training_from_identical_weights_are_those_of_mace(backend):
    golden = read_golden(GOLDEN)
    potential = CONVERTERS["mace-torch"](golden.source, None)
    assert use_backend(potential, backend).name == backend
    assert potential.dtype == torch.float64
    data = Dataset(read_frames([DATA]).frames[: golden.meta["structures"]], potential.r_max)
    optimiser, theirs, ours = build_optimiser(potential, OPTIONS), golden.arrays["losses"], []
    size = golden.meta["batch"]
    while len(ours) < len(theirs):
        for start in range(0, len(data), size):
            batch = data.batch(range(start, start + size))
            prediction, labels = training_prediction(potential, batch, derivatives=True)
            sums = loss_sums(label_errors(prediction, labels, batch.graph), labels, batch.graph, OPTIONS)
            value = loss(sums, label_counts(labels), OPTIONS.loss_weights(0))
            potential.zero_grad()
            value.backward()
            clip_grad_norm_(potential.parameters(), OPTIONS.clip)
            optimiser.step()
            ours.append(float(value.detach()))
    relative = np.abs(np.array(ours) / theirs - 1.0)
    print("largest relative difference of the losses:", relative.max(), relative)
    assert relative.max() <= 1e-6
    assert len(ours) == 20
    assert np.ptp(theirs) > 0.01 * theirs[0]
