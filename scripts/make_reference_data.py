"""Compute, or verify, the reference data of the examples.

Examples:
    pip install "equipot[reference]"
    OMP_NUM_THREADS=1 python scripts/make_reference_data.py --set 3bpa --out examples/xtb_3bpa
    OMP_NUM_THREADS=1 python scripts/make_reference_data.py --set periodic --out examples/xtb_periodic
    OMP_NUM_THREADS=1 python scripts/make_reference_data.py --set 3bpa --out examples/xtb_3bpa --verify 20
"""

import argparse
import sys
from pathlib import Path

from reference_data import crystal, molecule
from reference_data.verify import verify

SETS = {"3bpa": molecule, "periodic": crystal}


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", choices=sorted(SETS), required=True, help="which set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the set's files")
    parser.add_argument("--quick", action="store_true", help="a smoke test with very few, correlated frames")
    parser.add_argument(
        "--verify", type=int, metavar="N", help="label N random frames of DIR anew and compare; write nothing"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of frames of --verify")
    options = parser.parse_args()
    chosen = SETS[options.set]
    if options.verify is not None:
        complaints = verify(options.out, chosen.METHOD, options.verify, options.seed)
        print("\n".join(complaints) or "everything agrees")
        return 1 if complaints else 0
    options.out.mkdir(parents=True, exist_ok=True)
    chosen.make(options.out, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
