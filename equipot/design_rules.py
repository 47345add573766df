"""Which values of a design's axes go together; `d` is a `Design`, which imports these rules."""

from typing import Any


def rules(d: Any) -> list[tuple[bool, str]]:
    """The combinations that have no meaning, each with its reason."""
    widths = d.channels_per_degree
    return [
        (len(widths) != d.max_L + 1,
         f"channels={d.channels} has {len(widths)} entries, but max_L={d.max_L} needs {d.max_L + 1} "
         "(one for each degree 0 … max_L); give one number for all"),
        (min(widths) < 1, f"channels={d.channels}: every degree needs at least one channel"),
        (d.product == "none" and d.correlation != 1,
         f"product='none' forms no products, so correlation={d.correlation} cannot be reached; "
         "set correlation=1, or product='mace'"),
        (d.product != "none" and len(set(widths)) != 1,
         f"product={d.product!r} multiplies features of one channel, so all degrees need the same number; "
         f"channels={d.channels}"),
        *_coupled_rules(d),
        (d.product == "none" and d.max_L > 0 and d.max_ell == 0,
         f"max_L={d.max_L} cannot be reached with max_ell=0: features of degree L ≥ 1 come from the edges' "
         "harmonics; raise max_ell or set max_L=0"),
        (d.product != "none" and d.max_L > d.correlation * d.max_ell,
         f"max_L={d.max_L} cannot be reached: a product of {d.correlation} factors of degree ≤ max_ell={d.max_ell}"
         f" has degree ≤ {d.correlation * d.max_ell}"),
        (d.radial_map == "mlp" and not d.radial_mlp,
         "radial_map='mlp' needs hidden widths in radial_mlp, for example (64, 64, 64); "
         "for none use radial_map='linear'"),
        (d.radial_species != "none" and d.radial_map != "mlp",
         f"radial_species={d.radial_species!r} is an input of the radial MLP; radial_map={d.radial_map!r} has none: "
         "set radial_map='mlp', or radial_species='none'"),
        (len(d.edge_channels_per_degree) != d.max_L + 1,
         f"edge_channels={d.edge_channels} has {len(d.edge_channels_per_degree)} entries, but max_L={d.max_L} needs "
         f"{d.max_L + 1} (one for each degree 0 … max_L); give one number for all"),
        (d.edge_channels_per_degree[:1] == (0,),
         f"edge_channels={d.edge_channels}: the scalars of U h need at least one channel"),
        (d.first_layer == "density" and d.neighbour_count != "global",
         f"first_layer='density' has no n̄, so neighbour_count={d.neighbour_count!r} has no effect there; set it to "
         "'global'"),
        (d.radial_trainable and d.radial_basis in ("chebyshev", "legendre"),
         f"radial_basis={d.radial_basis!r} has nothing to train; set radial_trainable=False"),
        (d.num_radial < 2 and d.radial_basis == "gaussian",
         "radial_basis='gaussian' needs num_radial ≥ 2 (their spacing sets the width)"),
        (d.chebyshev_argument != "scaled" and d.radial_basis != "chebyshev",
         f"chebyshev_argument={d.chebyshev_argument!r} has no effect with radial_basis={d.radial_basis!r}; "
         "set it to 'scaled'"),
        (d.envelope_power > 0 and d.distance_transform not in ("agnesi", "agnesi_bond"),
         f"envelope_power={d.envelope_power} needs a transformed distance between 0 and 1, which distance_transform="
         f"{d.distance_transform!r} is not; choose 'agnesi_bond' or 'agnesi', or leave envelope_power out"),
        (d.chebyshev_lowest != 1 and d.radial_basis != "chebyshev",
         f"chebyshev_lowest={d.chebyshev_lowest} has no effect with radial_basis={d.radial_basis!r}; set it to 1"),
        (d.repulsion_scaled and (d.pair_repulsion == "none" or d.scale == "none"),
         "repulsion_scaled=True needs a pair_repulsion and a scale; set it to False"),
        (d.self_connection == "none" and d.layers > 1 and d.self_connection_first,
         "self_connection='none' and self_connection_first=True contradict each other; "
         "set self_connection_first=False"),
        (d.shift == "none" and d.trainable_shift,
         "trainable_shift=True needs shift='mean' to start from"),
        (d.scale == "none" and d.trainable_scale,
         "trainable_scale=True needs scale='force_rms' or 'energy_std' to start from"),
        (d.neighbour_normalisation in ("none", "density", "density_mlp") and d.neighbour_count != "global",
         f"neighbour_count={d.neighbour_count!r} has no effect with "
         f"neighbour_normalisation={d.neighbour_normalisation!r}; set it to 'global'"),
        (d.parity == "none" and d.product != "none",
         f"parity='none' is not defined for products (product={d.product!r}); use 'natural' or 'full', or "
         "product='none'"),
        (d.pair_repulsion in ("none", "core") and d.repulsion_p is not None,
         f"repulsion_p={d.repulsion_p} has no effect with pair_repulsion={d.pair_repulsion!r}; choose 'zbl' or "
         "'zbl_lammps'"),
        (d.heads != 1, f"heads={d.heads}: this version trains one energy; set heads=1"),
    ]  # fmt: skip


COUPLED: dict[str, Any] = {
    "layers": 1, "max_L": 0, "parity": "natural", "channels": 1, "last_layer": "scalars", "radial_trainable": False,
    "radial_map": "fixed", "radial_species": "none", "element_embedding": "one_hot", "embedding_channels": None,
    "edge_channels": None, "neighbour_normalisation": "none", "message_species": "none", "message_residual": False,
    "message_nonlinearity": "none", "first_layer": "same", "product": "symmetric", "product_weights": "species",
    "self_connection": "none", "self_connection_first": False, "nonlinearity": "none", "feature_norm": "none",
    "envelope_on": "basis", "readout_layers": "last", "readout": "sum", "scale": "none",
}  # fmt: skip
"""The values that other axes have where channels are coupled: one linear layer."""


OF_COUPLED: dict[str, Any] = {
    "degrees": (), "degree_weight_ell": 1.0, "degree_rarity": 0.0, "product_r_max": None, "inner_envelope": 0.0,
    "distance_floor": False, "terminal_correlation": None,
}  # fmt: skip
"""The axes that only coupled channels have, and their values elsewhere."""


def _coupled_rules(d: Any) -> list[tuple[bool, str]]:
    """The combinations that have no meaning with coupled channels, or without."""
    if d.channel_coupling == "uncoupled":
        return [
            *((getattr(d, axis) != value,
               f"{axis}={getattr(d, axis)} belongs to coupled channels; set channel_coupling='coupled' (`ace_linear`), "
               "or leave it out") for axis, value in OF_COUPLED.items()),
            (d.readout == "sum", "readout='sum' belongs to coupled channels; choose linear, two_linear, mlp, mlp_bias"),
        ]  # fmt: skip
    return [
        *((getattr(d, axis) != value,
           f"{axis}={getattr(d, axis)!r} has no meaning in the one linear layer of channel_coupling='coupled', which "
           f"needs {axis}={value!r}; `ace_linear` sets such axes: leave it out") for axis, value in COUPLED.items()),
        (len(d.degrees) != d.correlation,
         f"degrees={d.degrees} has {len(d.degrees)} entries, but correlation={d.correlation} needs {d.correlation}, "
         "one for each order ν = 1 … correlation; give as many, or leave correlation out of `ace_linear`, which counts "
         "them"),
        *((D < order, f"degrees={d.degrees}: D_{order} = {D:g} has no function; give at least {order}, or leave it out")
          for order, D in enumerate(d.degrees[1:], start=2)),
        (bool(d.degrees) and (d.degrees[0] != int(d.degrees[0]) or d.degrees[0] > d.num_radial),
         f"degrees={d.degrees}: the first is the number of two-body functions, a whole number of at most num_radial="
         f"{d.num_radial}; lower it or raise num_radial, which `ace_linear` sets where it is left out"),
        (d.product_r_max is not None and d.product_r_max > d.r_max,
         f"product_r_max={d.product_r_max} is beyond r_max={d.r_max}; neighbours end there; "
         "lower it, raise r_max, or leave it out for products up to r_max"),
    ]  # fmt: skip
