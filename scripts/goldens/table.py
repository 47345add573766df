"""Prints how far converted models are from the golden results of the published codes, as a table in Markdown.

python scripts/goldens/table.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from equipot.convert import CONVERTERS
from tests.peers.golden import FILES, errors, predict, read_golden


def main() -> None:
    """One row for each configuration."""
    print("| configuration | code | precision | energy, relative | forces, eV/Å | stress, eV/Å³ |")
    print("|---|---|---|---:|---:|---:|")
    for path in FILES:
        golden = read_golden(path)
        found = errors(predict(CONVERTERS[golden.source.code](golden.source, golden.meta.get("head"))), golden)
        code = f"{golden.source.code} {golden.source.version}".rstrip()
        differences = " (of differences)" if "forces_from" in golden.meta else ""
        stress = "–" if differences else f"{found['stress']:.0e}"
        print(
            f"| {path.stem.replace('_', ' ')} | {code} | {golden.meta['dtype']} | {found['energy']:.0e} "
            f"| {found['forces']:.0e}{differences} | {stress} |"
        )


if __name__ == "__main__":
    main()
