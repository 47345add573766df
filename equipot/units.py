"""Units: eV, Å, eV/Å, eV/Å³, amu, fs. Conversions used for printing, stated once."""

MEV = 1000.0
"""meV per eV."""

GPA = 160.21766208
"""GPa per eV/Å³ (CODATA 2014, the set that ASE uses)."""

UNITS = {
    "energy": "eV",
    "length": "Å",
    "forces": "eV/Å",
    "stress": "eV/Å^3, (1/V) dE/dstrain, tension positive",
    "virial": "eV, -V stress",
    "mass": "amu",
    "time": "fs",
}
"""The units written into every model file."""
