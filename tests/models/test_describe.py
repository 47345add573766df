"""The numbers of a design, against counts by hand."""

from equipot.design import Design
from equipot.models import describe
from equipot.points import ace, mace, named_point, nequip
from equipot.run_report import model_tables

SMALL = {"channels": 2, "num_radial": 3, "readout_hidden": 5}


def operations(design: Design) -> tuple[list[int], list[int]]:
    """Per edge and per atom: of each layer, and in total."""
    found = describe(design, (1, 8))
    return tuple(
        [*(layer[key] for layer in found["layers"]), found[key]]
        for key in ("operations_per_edge", "operations_per_atom")
    )


def test_operations_of_a_mace_counted_by_hand():
    """Two layers of 2x0e + 2x1o, ν = 2, R by 3 → 4 → weights, every layer read out (the last by 2 → 5 → 1)."""
    design = mace(**SMALL, max_ell=1, max_L=1, correlation=2, radial_mlp=(4,))
    # Layer 1, h = 2x0e. Paths 0e⊗Y0→0e and 0e⊗Y1→1o: 2 · 2 weights, 1 and 3 coefficients.
    radial = 3 * 4 + 4 * 4
    coupling = 2 * (1 + 3)
    weighting = 2 * (1 + 3)
    edge_1 = radial + coupling + weighting
    # A = s, x, y, z. Products of two: s², x², y², z² for L = 0, and sx, sy, sz for L = 1; all A are used for ν = 1.
    up = 2 * 2
    mix = 2 * 2 * 1 + 2 * 2 * 3
    formed = 4 + 3
    applied = (1 + 4) + (3 + 3)
    down = 2 * 2 * 1 + 2 * 2 * 3
    self_connection = 2 * 2
    atom_1 = up + mix + 2 * (formed + applied) + down + self_connection + 2
    # Layer 2, h = 2x0e + 2x1o, scalars out. Paths 0e⊗Y0→0e, 1o⊗Y1→0e, 0e⊗Y1→1o, 1o⊗Y0→1o: 4 · 2 weights.
    radial = 3 * 4 + 4 * 8
    coupling = 2 * (1 + 3 + 3 + 3)
    weighting = 2 * (1 + 1 + 3 + 3)
    edge_2 = radial + coupling + weighting
    # W from 4x0e + 4x1o. L = 0 only: s, and s², x², y², z².
    up = 2 * 2 * 1 + 2 * 2 * 3
    mix = 4 * 2 * 1 + 4 * 2 * 3
    formed = 4
    applied = 1 + 4
    down = 2 * 2
    self_connection = 2 * 2
    atom_2 = up + mix + 2 * (formed + applied) + down + self_connection + (2 * 5 + 5)
    harmonics = 3
    assert operations(design) == ([edge_1, edge_2, edge_1 + edge_2 + harmonics], [atom_1, atom_2, atom_1 + atom_2])
    assert (edge_1, atom_1, edge_2, atom_2) == (44, 78, 80, 89)


def test_operations_of_a_nequip_counted_by_hand():
    """Two gated layers of both parities with Y to ℓ = 2, R by 3 → 4 → weights, the last read out by 2 → 5 → 1."""
    design = nequip(**SMALL, layers=2, max_ell=2, max_L=1, radial_mlp=(4,))
    # Layer 1, h = 2x0e, out 2x0e + 2x1o, so 4x0e + 2x1o before the gate. Paths 0e⊗Y0→0e, 0e⊗Y1→1o; no readout.
    edge_1 = (3 * 4 + 4 * 4) + 2 * (1 + 3) + 2 * (1 + 3)
    up, mix, self_connection = 2 * 2, 2 * 4 * 1 + 2 * 2 * 3, 2 * 4
    atom_1 = up + mix + self_connection
    # Layer 2, out 2x0e + 2x1o + 2x1e, so 6x0e + 2x1o + 2x1e before the gate. Paths, with their coefficients:
    # 0e⊗Y0→0e 1, 1o⊗Y1→0e 3; 0e⊗Y1→1o 3, 1o⊗Y0→1o 3, 1o⊗Y2→1o 11; 1o⊗Y1→1e 6 (a cross product).
    # The 11: xy, xz, yz two each, 2y² − x² − z² three, z² − x² two.
    edge_2 = (3 * 4 + 4 * 12) + 2 * (1 + 3 + 3 + 3 + 11 + 6) + 2 * (1 + 1 + 3 + 3 + 3 + 3)
    up = 2 * 2 * 1 + 2 * 2 * 3
    mix = 4 * 6 * 1 + 6 * 2 * 3 + 2 * 2 * 3
    self_connection = 2 * 6 * 1 + 2 * 2 * 3
    atom_2 = up + mix + self_connection + (2 * 5 + 5)
    # √3 (x, y, z), then the nine products of those with x, y, z and the 11 coefficients of Y2.
    harmonics = 3 + 9 + 11
    assert operations(design) == ([edge_1, edge_2, edge_1 + edge_2 + harmonics], [atom_1, atom_2, atom_1 + atom_2])
    assert (edge_1, atom_1, edge_2, atom_2) == (44, 32, 142, 127)


def test_operations_of_an_ace_counted_by_hand():
    """One layer, ν = 3, linear R per element, P, no self-connection, linear readout."""
    design = ace(**SMALL, max_ell=1)
    # R of 2 · 2 weights from 3 functions; paths 0e⊗Y0→0e, 0e⊗Y1→1o.
    edge = 3 * 4 + 2 * (1 + 3) + 2 * (1 + 3)
    # A = s, x, y, z. ν = 1: s. ν = 2: s², x², y², z². ν = 3: s³, sx², sy², sz², made of s² and sx, sy, sz.
    up, mix, P, down, readout = 2 * 2, 2 * 2 * (1 + 3), 2 * 2 * (1 + 3), 2 * 2, 2
    formed = (4 + 3) + 4
    applied = 1 + 4 + 4
    atom = up + mix + P + 2 * (formed + applied) + down + readout
    assert operations(design) == ([edge, edge + 3], [atom, atom])
    assert (edge, atom) == (28, 82)


def test_a_fixed_radial_map_costs_nothing():
    per_edge, _ = operations(ace(**SMALL, max_ell=1).replace(radial_map="fixed"))
    assert per_edge[0] == 2 * (1 + 3) + 2 * (1 + 3)


def body_orders_shown(name: str, **axes) -> tuple[str, list[str]]:
    """What the report's tables say of the energy's and of the layers' body order."""
    design = named_point(name, **SMALL, max_ell=1, max_L=1 if name != "ace" else 0, **axes)
    described = describe(design, (1, 8))
    tables = model_tables(described, name, design)
    layers = next(table for table in tables if table.caption == "Layers")
    column = list(layers.headings).index("body order")
    return dict(tables[0].rows)["body order of the energy"], [row[column] for row in layers.rows]


def test_body_orders_are_shown_as_exact_or_unbounded():
    """N_{t+1} = ν (N_t + 1): 3 and 12 neighbours for MACE's two layers, 3 for ACE; a gate has no end."""
    assert body_orders_shown("mace", readout="linear") == ("13 (exact)", ["4 (exact)", "13 (exact)"])
    assert body_orders_shown("mace") == ("unbounded", ["4 (exact)", "13 (exact)"])
    assert body_orders_shown("ace") == ("4 (exact)", ["4 (exact)"])
    assert body_orders_shown("nequip", layers=2) == ("unbounded", ["unbounded", "unbounded"])


def test_whether_body_orders_are_exact_is_told():
    mlp, linear = (describe(mace(**SMALL, max_ell=1, readout=readout), (1, 8)) for readout in ("mlp", "linear"))
    assert [layer["exact"] for layer in mlp["layers"]] == [True, True]
    assert (mlp["energy_exact"], linear["energy_exact"]) == (False, True)
    gated = describe(nequip(**SMALL, layers=2, max_ell=1, max_L=1), (1, 8))
    assert [layer["exact"] for layer in gated["layers"]] == [False, False]
