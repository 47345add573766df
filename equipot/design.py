"""The design space as values: one `Design` is one point of multi-layer ACE.

A design holds exactly what changes the function being learned. What is measured from data is
`equipot.statistics.Statistics`; backend, dtype and device are choices of a run.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from equipot.design_rules import rules
from equipot.errors import EquipotError

Channels = int | tuple[int, ...]
Width = Annotated[int, Field(ge=1)]
EdgeChannels = Width | tuple[Annotated[int, Field(ge=0)], ...]


class Design(BaseModel):
    r"""One point of the design space of E(3)-equivariant atom-centred potentials.

    The function that every point defines, with the symbols of the paper:

        a_i  = Σ_{j∈N(i)} R(r_ij) [ Y(r̂_ij) ⊗ U h_j ]
        A_i  = V γ( N · P_{z_i} W a_i + Q U h_i )
        B_i  = Σ_ν w^(ν)_{z_i} [ A_i^{⊗ν} ]_sym
        h'_i = σ( D B_i + S_{z_i} h_i )
        E_i  = E0_{z_i} + scale · Σ_t readout_t(h_i^(t)) + shift

    Every field is one axis. Fields are frozen; `replace` returns a new, validated design.

    Source: Batatia et al., *The design space of E(3)-equivariant atom-centred interatomic potentials*
    (Nat. Mach. Intell. 7, 2025), Fig. 1 and Methods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the graph
    r_max: float = Field(5.0, gt=0, allow_inf_nan=False, description="cutoff radius, Å")
    layers: int = Field(2, ge=1, le=12, description="number of interaction layers T")

    # symmetry and width
    max_ell: int = Field(3, ge=0, le=8, description="highest degree ℓ of the edges' spherical harmonics")
    max_L: int = Field(1, ge=0, le=8, description="highest degree L of the features passed between layers")
    parity: Literal["natural", "full", "none"] = Field(
        "natural",
        description="features of parity (−1)^L only, of both parities for every L, or without parity: rotations "
        "are symmetries and mirror images differ (nequip 0.5 with parity: false)",
    )
    channels: Channels = Field(128, description="channels k, one number or one for each degree 0 … max_L")
    channel_coupling: Literal["uncoupled", "coupled"] = Field(
        "uncoupled",
        description="product basis with one channel index shared by all factors, or coupled: every factor has its own "
        "n, ℓ and element (linear ACE)",
    )
    degrees: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (),
        description="truncation of the coupled basis, one number D_ν for each order ν = 1 … correlation: "
        "Σ_t (n_t + w ℓ_t) ≤ D_ν; D_1 is the number of two-body functions of each pair of elements",
    )
    degree_weight_ell: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="w, the weight of ℓ against n in the degree of a coupled factor"
    )
    degree_rarity: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="κ: each factor of an element, and such a centre, adds κ log₂(1/x) to the degree, x the element's "
        "fraction of the atoms in training; several elements share what one would have, rare ones have less",
    )
    terminal_correlation: int | None = Field(
        None,
        ge=1,
        description="highest order ν of coupled functions centred on terminal elements, which have one bond in "
        "training (1.25 at most on average): the atoms they are bonded to see the same; default: that of all",
    )
    last_layer: Literal["all", "scalars"] = Field(
        "scalars", description="irreps that the last layer makes: all, or the scalars that the readout reads"
    )

    # radial functions
    radial_basis: Literal["bessel", "chebyshev", "legendre", "gaussian"] = Field("bessel", description="basis in r")
    num_radial: int = Field(8, ge=1, description="number of radial basis functions")
    radial_trainable: bool = Field(False, description="Bessel frequencies (or Gaussian centres) are parameters")
    radial_prefactor: Literal["sqrt", "full"] = Field(
        "sqrt", description="Bessel prefactor √(2/r_max) (BOTNet, MACE) or 2/r_max (NequIP)"
    )
    radial_map: Literal["fixed", "linear", "linear_species", "mlp"] = Field(
        "mlp",
        description="from the basis to the weights of each path and channel; per sender's element if species",
    )
    radial_mlp: tuple[Width, ...] = Field((64, 64, 64), description="hidden widths of the radial MLP")
    radial_scaling: Literal["e3nn", "nequip", "plain", "layer_norm"] = Field(
        "e3nn",
        description="scaling inside the radial MLP: e3nn's FullyConnectedNet, nequip ≥ 0.7's, none (Nequix), "
        "or biases and LayerNorm",
    )
    radial_species: Literal["none", "embedding"] = Field(
        "none", description="embeddings of the sender's and of the receiver's element beside e(r) in the radial MLP"
    )
    radial_activation: Literal["silu", "ssp"] = Field(
        "silu", description="activation of the radial MLP; ssp is the shifted softplus ln(1 + eˣ) − ln 2"
    )
    envelope_p: int = Field(5, ge=2, description="order p of the polynomial envelope")
    envelope_power: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="κ: the envelope is also multiplied by u^κ, u the transformed distance, so that near neighbours "
        "weigh more than far ones",
    )
    envelope_on: Literal["basis", "weights"] = Field("basis", description="what the envelope multiplies")
    chebyshev_argument: Literal["scaled", "distance"] = Field(
        "scaled",
        description="Chebyshev polynomials of the distance scaled onto [−1, 1], or of the (transformed) distance "
        "itself, as in mace-torch",
    )
    chebyshev_lowest: Literal[0, 1] = Field(
        1, description="order of the first Chebyshev polynomial: T_1 as in mace-torch, or the constant T_0"
    )
    distance_transform: Literal["none", "agnesi", "agnesi_bond", "soft"] = Field(
        "none",
        description="map of r per pair of elements before the basis; agnesi_bond: finest at the bond length, "
        "from r = 0 to r_max",
    )
    product_r_max: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="cutoff of the products of the coupled basis, Å; default r_max"
    )
    inner_envelope: float = Field(
        0.0,
        ge=0,
        le=1,
        description="products of the coupled basis vanish smoothly below this fraction of the sum of covalent radii; "
        "the two-body part does not; 0 for no inner envelope",
    )

    distance_floor: bool = Field(
        False,
        description="functions of the coupled basis see no distance shorter than the shortest of each pair of elements "
        "in training: below it they do not change",
    )

    # the interaction
    element_embedding: Literal["linear", "table", "one_hot"] = Field(
        "linear", description="h⁰: one-hot through a normalised linear map, a plain table, or the one-hot vector itself"
    )
    embedding_channels: Width | None = Field(
        None, description="width of h⁰; default the scalar channels, or the number of elements if one-hot"
    )
    edge_channels: EdgeChannels | None = Field(
        None, description="channels of U h, one number or one for each degree 0 … max_L; default those of h"
    )
    edge_channels_first: bool = Field(True, description="edge_channels in the first layer too")
    edge_vector: Literal["to_receiver", "to_sender"] = Field(
        "to_receiver", description="r̂ in Y: r_i − r_j (BOTNet, MACE) or r_j − r_i (NequIP)"
    )
    neighbour_normalisation: Literal["none", "mean", "sqrt", "density", "density_mlp"] = Field(
        "mean",
        description="N: 1, 1/n̄, 1/√n̄, or with a learned density ρ 1/(1 + Σ_j ρ_ij), or 1/(α + β Σ_j ρ_ij) and ρ an MLP",
    )
    neighbour_count: Literal["global", "per_receiver", "per_sender"] = Field(
        "global", description="n̄ over all atoms, per element of the receiver or of the sender"
    )
    message_species: Literal["none", "first", "all"] = Field(
        "none", description="P: weights per element on the pooled message, in the first layer or in all"
    )
    message_residual: bool = Field(False, description="Q: a linear map of U h_i is added to the pooled message")
    message_nonlinearity: Literal["none", "gate"] = Field(
        "none", description="γ: identity, or the gate with sigmoid gates and a linear map V behind it"
    )
    first_layer: Literal["same", "linear", "density"] = Field(
        "same",
        description="the first layer is like the others, or MACE's: R(r) by e3nn's network, no Q and γ, S per element, "
        "with N = 1/n̄ (linear) or 1/(1 + Σ_j ρ_ij) (density)",
    )
    product: Literal["none", "mace", "symmetric"] = Field(
        "mace",
        description="product basis: none (B = A), chained couplings as published, or minimal symmetric",
    )
    correlation: int = Field(3, ge=1, le=5, description="correlation order ν of one layer")
    product_weights: Literal["species", "shared"] = Field("species", description="w per central element or not")
    self_connection: Literal["none", "plain", "species", "indexed", "embedding"] = Field(
        "species",
        description="S: absent, one matrix, one per element (weights times 1/√(K S) for K channels and S elements, or "
        "1/√K if indexed), or contracted with the element's embedding",
    )
    self_connection_first: bool = Field(True, description="S in the first layer too")
    nonlinearity: Literal["none", "gate"] = Field("none", description="σ: identity or the gate")
    gate_activation: Literal["silu", "ssp"] = Field(
        "silu", description="activation of even scalars and of the gates; odd scalars have tanh"
    )
    feature_norm: Literal["none", "rms", "layer"] = Field(
        "none", description="normalisation: of h' for each irrep, or of σ's argument over all irreps (Nequix)"
    )
    activation_constants: Literal["e3nn", "exact", "jax"] = Field(
        "e3nn",
        description="second-moment constants of SiLU and tanh: e3nn's sample, integrated, or e3nn-jax's sum",
    )

    # the energy
    readout_layers: Literal["every", "last"] = Field("every", description="layers that are read out")
    readout: Literal["linear", "two_linear", "mlp", "mlp_bias", "sum"] = Field(
        "mlp",
        description="form of the last readout; mlp_bias: with biases behind all but the first matrix; sum: the "
        "coupled layer's scalar itself",
    )
    readout_hidden: int = Field(16, ge=1, description="hidden width of the last readout")
    readout_depth: int = Field(1, ge=1, description="number of hidden layers of the last readout's MLP")
    readout_activation: Literal["silu", "mish", "gelu", "none"] = Field(
        "silu", description="activation of the last readout's MLP"
    )
    readout_scaling: Literal["e3nn", "nequip"] = Field(
        "e3nn", description="factor of activations in the last readout's MLP: second-moment constants, or √2 for all"
    )
    energy_reference: Literal["isolated_atoms", "least_squares", "mean_shift"] = Field(
        "isolated_atoms", description="E0: energies of isolated atoms, fitted, or one mean energy per atom"
    )
    scale: Literal["none", "force_rms", "energy_std"] = Field(
        "force_rms", description="factor of the interaction energy"
    )
    shift: Literal["none", "mean"] = Field("mean", description="mean interaction energy per atom, added to each atom")
    scale_shift_per_species: bool = Field(False, description="one scale and one shift for each element")
    trainable_scale: bool = Field(False, description="scale is a parameter that starts at its measured value")
    trainable_shift: bool = Field(False, description="shift is a parameter that starts at its measured value")
    trainable_e0: bool = Field(False, description="E0 is a parameter that starts at its measured value")
    pair_repulsion: Literal["none", "zbl", "zbl_lammps", "core"] = Field(
        "none",
        description="repulsion added to E: screened nuclear, with the constants and the envelope up to the sum of "
        "covalent radii of mace-torch, or with those of LAMMPS and the envelope up to r_max (nequip); or a core below "
        "the shortest distance of each pair of elements in training, nothing above it",
    )
    repulsion_p: int | None = Field(
        None, ge=2, description="order of the repulsion's envelope; default that of the radial basis"
    )
    repulsion_scaled: bool = Field(
        False, description="the repulsion is multiplied by the scale, as in mace-torch's ScaleShiftMACE"
    )
    heads: int = Field(1, ge=1, description="number of energies (levels of theory); 1 in this version")

    def __init__(self, **axes: Any) -> None:
        unknown = [name for name in axes if name not in type(self).model_fields]
        if unknown:
            raise EquipotError(_unknown_axis(unknown[0]))
        try:
            super().__init__(**axes)
        except ValidationError as error:
            raise EquipotError(_first_problem(error)) from None

    @model_validator(mode="after")
    def _combination(self) -> "Design":
        for impossible, reason in rules(self):
            if impossible:
                raise ValueError(reason)
        return self

    @property
    def channels_per_degree(self) -> tuple[int, ...]:
        """Channels for each degree 0 … max_L."""
        if isinstance(self.channels, int):
            return (self.channels,) * (self.max_L + 1)
        return self.channels

    @property
    def edge_channels_per_degree(self) -> tuple[int, ...]:
        """Channels of U h for each degree 0 … max_L, where `edge_channels` gives them."""
        if isinstance(self.edge_channels, int):
            return (self.edge_channels,) * (self.max_L + 1)
        return self.edge_channels or self.channels_per_degree

    def of_layer(self, index: int) -> "Design":
        """Returns the design of one layer, 0 for the first: `first_layer` and `edge_channels_first` are resolved."""
        if index > 0:
            return self
        axes: dict[str, Any] = {} if self.edge_channels_first else {"edge_channels": None}
        if self.first_layer != "same":
            axes |= {
                "first_layer": "same", "radial_scaling": "e3nn", "radial_species": "none", "message_residual": False,
                "neighbour_normalisation": {"linear": "mean", "density": "density"}[self.first_layer],
                "message_nonlinearity": "none",
                "self_connection": "none" if self.self_connection == "none" else "species",
            }  # fmt: skip
        return self.replace(**axes)

    def replace(self, **axes: Any) -> "Design":
        """Returns this design with some axes changed, validated again.

        Raises:
            EquipotError: An axis is unknown, or the combination is impossible.
        """
        return Design(**{**self.model_dump(), **axes})

    def with_reference(self, source: str) -> "Design":
        """Returns the design with the energy reference that the data gave.

        Args:
            source: `Statistics.atomic_energies_source`. A design with a mean shift keeps it.
        """
        measured = {"given": "isolated_atoms"}.get(source, source)
        return self if self.energy_reference == "mean_shift" else self.replace(energy_reference=measured)

    def differences(self, other: "Design") -> dict[str, tuple[Any, Any]]:
        """Returns the axes whose values differ, as {axis: (self's, other's)}."""
        mine, theirs = self.model_dump(), other.model_dump()
        return {axis: (mine[axis], theirs[axis]) for axis in mine if mine[axis] != theirs[axis]}


def _unknown_axis(name: str) -> str:
    known = list(Design.model_fields)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}? `equipot options design` lists all." if near else ""
    return f"unknown design axis {name!r}. {hint or 'The axes are: ' + ', '.join(known) + '.'}"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, str) and part in Design.model_fields)
    return f"design.{where} = {problem['input']!r}: {message}" if where else f"impossible design: {message}"
