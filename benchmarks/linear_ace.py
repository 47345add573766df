"""Linear ACE: energies and forces against other points and its own size; fits against functions and structures.

    python benchmarks/linear_ace.py --quick                 everything once, small, in two minutes
    python benchmarks/linear_ace.py --data FOLDER           all of it
    python benchmarks/linear_ace.py --parts speed           only steps of dynamics; or fit
    python benchmarks/linear_ace.py ... --json --out FILE   one JSON document with every sample

benchmarks/README.md says what is measured and how.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from linear_designs import COMPILED
from linear_fits import fit_rows
from linear_speed import speed_rows
from machine import describe, rates
from measure import Bench, Settings
from table import heading
from tasks import Tasks


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON document (tables go to standard error)")
    add("--out", type=Path, help="write the JSON document to this file too")
    add("--quick", action="store_true", help="small sizes, few points, one turn: to see that everything works")
    add("--parts", default="speed,fit", help="speed, fit or both")
    add("--data", help="folder with 3bpa/train_300K.xyz and iso_atoms.xyz; default: the molecules of the examples")
    add("--threads", type=int, default=1, help="of every process")
    add("--repeats", type=int, default=5, help="turns of every point, 5 at least")
    add("--dtypes", default="float32,float64", help="precisions of the steps of dynamics")
    add("--systems", default="3bpa-1,si-512", help="3bpa-1 and si-N, N eight times a cube")
    add("--compiled", default=",".join(COMPILED), help="points that are compiled too, minutes each; or none")
    found = parser.parse_args()
    if found.repeats < 5 and not found.quick:
        parser.error("--repeats: medians need at least 5")
    unknown = set(found.parts.split(",")) - {"speed", "fit"}
    if unknown:
        parser.error(f"--parts: {', '.join(unknown)} is neither speed nor fit")
    return found


def main() -> None:
    a = arguments()
    out: TextIO = sys.stderr if a.json else sys.stdout
    repeats, seconds = (1, 0.1) if a.quick else (a.repeats, 0.5)
    document: dict[str, Any] = {"machine": describe()}
    document["machine"]["rates"] = rates(a.threads, a.quick)
    print(heading(document["machine"]), file=out, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Tasks(Path(folder), a.data, {}), Settings(None, False, a.threads, repeats, seconds))
        if "speed" in a.parts:
            systems, dtypes, compiled = (x.split(",") for x in (a.systems, a.dtypes, a.compiled))
            document["speed"] = speed_rows(bench, systems, dtypes, tuple(compiled), a.quick, out)
            document["versions"] = bench.versions
        if "fit" in a.parts:
            document["fit"] = fit_rows(a.data, a.threads, repeats, a.quick, out)
    document["machine"]["load_average_at_the_end"] = os.getloadavg()
    text = json.dumps(document, indent=1)
    if a.json:
        print(text)
    if a.out:
        a.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
