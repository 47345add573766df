"""Figures of a JSON document of `speed.py --scaling`: time and memory against the number of atoms.

python benchmarks/plots.py RESULT.json FOLDER
"""

import argparse
import json
from pathlib import Path
from typing import Any

from cases import MODELS
from matplotlib import rc_context

from equipot.study.style import CYCLE, canvas, plain_log_axis, styled

_MARKERS = {"ours": "o", "peer": "s", "peer tuned": "^"}
_PEERS = {"mace": "mace-torch", "nequip": "nequip", "botnet": "BOTNet's code"}
QUANTITIES = {
    "time": ("CPU time per call (s)", lambda r: r["cpu_ms"] / 1e3),
    "time_per_atom": ("CPU time per atom (µs)", lambda r: 1e3 * r["cpu_ms"] / r["atoms"]),
    "memory_per_atom": ("memory per atom (kB)", lambda r: 1024 * r["above_baseline_MB"] / r["atoms"]),
}


def growth_figures(document: dict[str, Any], folder: Path) -> list[Path]:
    """Writes one SVG for each quantity; colours are models, markers are codes."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [r for r in document["scaling"] if not r["failure"]]
    models = list(dict.fromkeys(r["model"] for r in results))
    paths = []
    for name, (title, value) in QUANTITIES.items():
        with styled(), rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure, (axes,) = canvas()
            for colour, model in zip(CYCLE, models, strict=False):
                for code, marker in _MARKERS.items():
                    points = [(r["atoms"], value(r)) for r in results if (r["model"], r["code"]) == (model, code)]
                    if points:
                        label = f"{model}, {_code(model, code)}"
                        style = "-" if code == "ours" else "--" if code == "peer" else ":"
                        axes.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=label, ms=4)
            axes.set(xscale="log", yscale="log", xlabel="atoms (bulk Cu)", ylabel=title)
            plain_log_axis(axes)
            axes.legend(fontsize=6, frameon=False)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            paths.append(path)
    return paths


def _code(model: str, code: str) -> str:
    """What a code is called in the legend."""
    peer = _PEERS[MODELS[model].peer]
    return {"ours": "equipot", "peer": peer, "peer tuned": f"{peer}, freed memory kept"}[code]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path)
    a = parser.parse_args()
    for path in growth_figures(json.loads(a.result.read_text(encoding="utf-8")), a.folder):
        print(path)


if __name__ == "__main__":
    main()
