"""Reference models with the sizes and weights of a potential; which code they follow is said by the caller."""

from oracle import botnet, mace, nequip, nequix
from oracle.parts import AgnosticRadial, ElementRadial, agnesi, double_precision, o3, soft
from oracle.weights import energy_terms, fill_botnet, fill_mace, fill_nequip_current, fill_nequip_published, fill_nequix
from torch import nn

from equipot.models import Potential


def hidden_irreps(potential: Potential, *, even_first: bool = False) -> str:
    """Irreps of the features as the released codes' input files write them."""
    design = potential.design
    both = (1, -1) if even_first else (-1, 1)
    terms = []
    for L, mul in enumerate(design.channels_per_degree):
        parities = both if design.parity == "full" else ((-1) ** L,)
        terms += [(mul, o3.Irrep(L, p)) for p in parities]
    return str(o3.Irreps(terms))


def _size(potential: Potential) -> dict:
    design = potential.design
    return {
        "r_max": design.r_max, "p": design.envelope_p, "max_ell": design.max_ell, "num_radial": design.num_radial,
        "radial_mlp": design.radial_mlp, "num_species": len(potential.statistics.species),
    }  # fmt: skip


def botnet_code(
    potential: Potential, first: str, later: str, *, element: bool = False, silu: bool = True, every: bool = True
) -> nn.Module:
    """BOTNet's released code with these blocks in the first and in later layers."""
    forms = [first] + [later] * (potential.design.layers - 1)
    radial = ElementRadial if element else AgnosticRadial
    with double_precision():
        model = botnet.BOTNet(
            forms, radial, hidden_irreps(potential), energy_terms(potential), every=every, silu=silu,
            mlp=potential.design.readout_hidden, mean_neighbours=potential.statistics.mean_neighbours,
            **_size(potential),
        )  # fmt: skip
        fill_botnet(model, potential)
    return model


def nequip_published(potential: Potential) -> nn.Module:
    """nequip 0.5."""
    with double_precision():
        model = nequip.Published(
            hidden_irreps(potential), energy_terms(potential), num_layers=potential.design.layers,
            readout_hidden=potential.design.readout_hidden, mean_neighbours=potential.statistics.mean_neighbours,
            **_size(potential),
        )  # fmt: skip
        fill_nequip_published(model, potential)
    return model


def nequip_current(potential: Potential, *, per_type: bool = False) -> nn.Module:
    """nequip 0.19; `per_type`: a mean number of neighbours for each type."""
    statistics, design = potential.statistics, potential.design
    counts = statistics.mean_neighbours_per_species if per_type else (statistics.mean_neighbours,)
    with double_precision():
        model = nequip.Current(
            hidden_irreps(potential, even_first=True), energy_terms(potential), num_layers=design.layers,
            mean_neighbours=list(counts), type_embed=potential.embedding.weight.shape[1], **_size(potential),
        )  # fmt: skip
        fill_nequip_current(model, potential)
    return model


def nequix_code(potential: Potential) -> nn.Module:
    """nequix 0.4, with `index_weights` and `layer_norm` as the axes say."""
    design = potential.design
    with double_precision():
        model = nequix.Nequix(
            hidden_irreps(potential), energy_terms(potential), num_layers=design.layers,
            mean_neighbours=potential.statistics.mean_neighbours, indexed=design.self_connection == "indexed",
            norm=design.feature_norm == "layer", **_size(potential),
        )  # fmt: skip
        fill_nequix(model, potential)
    return model


def mace_code(
    potential: Potential, *, residual_first: bool, density: bool = False, transform: str = "none",
    repulsion: bool = False, cutoff_on_basis: bool = True, element: bool = False, linear: bool = False, **blocks,
) -> nn.Module:  # fmt: skip
    """mace-torch with unreduced couplings; for ACE with BOTNet's `element` radial functions and a `linear` readout."""
    design = potential.design
    with double_precision():
        model = mace.MACE(
            hidden_irreps(potential), energy_terms(potential), num_layers=design.layers, residual_first=residual_first,
            density=density, correlation=design.correlation, repulsion=repulsion, cutoff_on_basis=cutoff_on_basis,
            transform={"none": None, "agnesi": agnesi, "soft": soft}[transform],
            radial=ElementRadial if element else AgnosticRadial, readout_hidden=0 if linear else design.readout_hidden,
            mean_neighbours=potential.statistics.mean_neighbours, **_size(potential), **blocks,
        )  # fmt: skip
        fill_mace(model, potential)
    return model
