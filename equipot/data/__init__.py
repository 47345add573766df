"""Structures from users: reading, checking, splitting, measuring, and the sets that training sees."""

from equipot.data.atomic_energies import AtomicEnergies, find_atomic_energies, interaction_energies
from equipot.data.dataset import Batch, Dataset, Labels
from equipot.data.doubts import doubts
from equipot.data.frame import Frame
from equipot.data.load import LoadedData, count_labels, load, load_set
from equipot.data.measure import Measurement, measure
from equipot.data.options import DataOptions, Indices, Keys
from equipot.data.read import FileSummary, LabelSummary, Reading, read_frames

__all__ = [
    "AtomicEnergies",
    "Batch",
    "DataOptions",
    "Dataset",
    "FileSummary",
    "Frame",
    "Indices",
    "Keys",
    "LabelSummary",
    "Labels",
    "LoadedData",
    "Measurement",
    "Reading",
    "count_labels",
    "doubts",
    "find_atomic_energies",
    "interaction_energies",
    "load",
    "load_set",
    "measure",
    "read_frames",
]
