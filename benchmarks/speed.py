"""Training and dynamics against the codes that published the models: one row for each question of the README's table.

    python benchmarks/speed.py --quick                       ours alone, some rows, under one minute
    python benchmarks/speed.py --peers FOLDER --data FOLDER  all rows, with mace-torch, nequip and BOTNet
    python benchmarks/speed.py --peers FOLDER --scaling      time and memory against the number of atoms
    python benchmarks/speed.py ... --json                    one JSON document with every sample

benchmarks/README.md says how the peers' environments are made, what each row means, and how ratios are defined.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import table
from cases import chosen
from machine import describe, rates
from measure import Bench, Settings
from processes import WorkerError
from scaling import measure_growth
from tasks import Tasks


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON document (the table goes to standard error)")
    add("--out", type=Path, help="write the JSON document to this file too")
    add("--quick", action="store_true", help="some rows, short turns: under one minute without peers")
    add("--peers", type=Path, help="folder with peers-mace/, peers-nequip/ and, for BOTNet, its source botnet/")
    add("--compiled-peers", action="store_true", help="nequip compiled too (takes minutes)")
    add("--rows", default="", help="only rows whose names match one of these, comma-separated")
    add("--backend", default="auto", help="of ours: auto, reference, cpu, …")
    add("--compile", action="store_true", help="ours in dynamics compiled, as by equipot compile (a minute each)")
    add("--radial", default="default", help="radial functions of ours: default, exact, spline, spline:KNOTS")
    add("--threads", type=int, default=1, help="of every code, but in the rows about threads")
    add("--repeats", type=int, default=5, help="turns of every code, 5 at least")
    add("--data", help="folder with 3bpa/train_300K.xyz; default: the molecules of the examples")
    add("--scaling", action="store_true", help="bulk copper from 512 to 50,000 atoms instead of the rows")
    add("--sizes", default="512,2048,6912,16384,32000,50000", help="numbers of atoms of --scaling, multiples of 4")
    add("--scaling-models", default="mace-128,nequip-l2", help="models of --scaling")
    add("--memory-limit", type=float, default=20.0, help="GB that a process of --scaling may use")
    add("--plots", type=Path, help="folder for the figures of --scaling (SVG)")
    found = parser.parse_args()
    if found.repeats < 5:
        parser.error("--repeats: medians need at least 5")
    return found


def main() -> None:
    a = arguments()
    settings = Settings(
        a.peers.resolve() if a.peers else None, a.compiled_peers, a.threads, a.repeats, 0.2 if a.quick else 1.0
    )
    out = sys.stderr if a.json else sys.stdout
    document: dict[str, Any] = {"machine": describe()}
    with tempfile.TemporaryDirectory() as folder:
        choices = {"backend": a.backend, "radial": a.radial, "compile": a.compile}
        bench = Bench(Tasks(Path(folder), a.data, choices), settings)
        document["machine"]["rates"] = found = rates(a.threads, a.quick)
        print(table.heading(document["machine"]), file=out, flush=True)
        if a.scaling:
            sizes = [int(n) for n in a.sizes.split(",")]
            document["scaling"] = measure_growth(bench, a.scaling_models.split(","), sizes, a.memory_limit, out)
        else:
            document["rows"] = _rows(bench, a, found, out)
        document["versions"] = bench.versions
    document["machine"]["load_average_at_the_end"] = os.getloadavg()
    print(table.footing(document), file=out, flush=True)
    text = json.dumps(document, indent=1)
    if a.json:
        print(text)
    if a.out:
        a.out.write_text(text + "\n", encoding="utf-8")
    if a.plots and a.scaling:
        from plots import growth_figures

        growth_figures(document, a.plots)


def _rows(bench: Bench, a: argparse.Namespace, found: dict[str, float], out: Any) -> list[dict[str, Any]]:
    print(table.columns(), file=out, flush=True)
    results = []
    for row in chosen(a.rows, a.quick):
        try:
            result = bench.run(row, found)
        except WorkerError as error:
            print(f"{row.name}: {error}", file=sys.stderr)
            results.append({"row": row.name, "failure": str(error)})
            continue
        results.append(result)
        print(table.line(result), file=out, flush=True)
    return results


if __name__ == "__main__":
    main()
