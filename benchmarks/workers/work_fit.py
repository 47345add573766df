"""One fit of linear ACE to 3BPA: `equipot.fit.linear.fit_linear`, with everything before it prepared."""

import resource
import sys
from pathlib import Path

import loop
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from linear_designs import MOLECULE, size_of, sized

import equipot
from equipot.data.load import load
from equipot.data.options import DataOptions
from equipot.fit.linear import LinearFitOptions, fit_linear
from equipot.kernels.backend import use_backend
from equipot.models import Potential
from equipot.models.linear import linear_features
from equipot.study.evaluate import evaluate_set

EXAMPLE = Path(__file__).parents[2] / "examples" / "xtb_3bpa"


class OneFit:
    """A fit of a number of weights to a number of structures; a tenth of the file is for calibration."""

    def __init__(self, task):
        folder = EXAMPLE if task["data"] is None else Path(task["data"], "3bpa")
        names = ("train_300K.xyz.gz", "isolated_atoms.xyz.gz") if task["data"] is None else (
            "train_300K.xyz", "iso_atoms.xyz")  # fmt: skip
        options = DataOptions(train=folder / names[0], valid=0.1, atomic_energies=str(folder / names[1]), seed=0)
        data = load(options, MOLECULE["r_max"])
        self.train, self.valid = data.train.select(range(task["structures"])), data.valid
        self.design = sized(task["weights"], data.statistics, each_centre=False, **MOLECULE)
        self.potential = Potential(self.design, data.statistics, dtype=torch.float64, seed=0)
        self.size = size_of(self.design, data.statistics)
        self.choice = use_backend(self.potential, "auto", training=False)
        self.potential.eval().requires_grad_(False)
        self.features = linear_features(self.potential)
        for use in (self.features.rows, self.features.node_rows, self.features.offset, self.features.prediction):
            use(self.train.graphs[0])  # compiles, or loads what was compiled
        self.fitted = None

    def run(self, steps):
        with self.potential.at_work():
            self.fitted = fit_linear(self.features, self.train, self.valid, LinearFitOptions())

    def facts(self):
        known = self.fitted.facts()
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0**2 if sys.platform == "darwin" else 1024)
        return {
            **self.size, "degrees": self.design.degrees, "rows": known["rows"], "structures": len(self.train),
            "atoms": int(self.train.num_atoms.sum()), "seconds": known["seconds"], "matrices_GB": known["matrices_GB"],
            "condition_number": known["condition_number"], "prior_strength": known["prior_strength"],
            "validation": evaluate_set(self.potential, self.valid).table.total, "largest_of_process_MB": largest,
        }  # fmt: skip


def make(task):
    subject = OneFit(task)
    return subject, {"equipot": equipot.__version__, "torch": torch.__version__, "backend": str(subject.choice)}


if __name__ == "__main__":
    loop.serve(make)
