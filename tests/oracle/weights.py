"""Our weights as the reference models store them, and their features as we do: one function for each module.

e3nn keeps [channel, m] within an irrep and any order of irreps; equipot keeps [m, channel], irreps sorted.
"""

import torch
from oracle import botnet, mace, nequip, nequix
from oracle.parts import AgnosticRadial, BiasedReadout, ElementRadial, Energy, HiddenReadout, OneHotEmbedding, o3
from torch import Tensor, nn

from equipot.interactions import Interaction
from equipot.interactions.linear import SpeciesLinear
from equipot.models import Potential


def features_as_ours(x: Tensor, irreps: o3.Irreps) -> Tensor:
    """e3nn's features with irreps sorted and components before channels."""
    blocks: dict[o3.Irrep, list[Tensor]] = {}
    for (mul, ir), where in zip(irreps, irreps.slices(), strict=True):
        blocks.setdefault(ir, []).append(x[:, where].reshape(-1, mul, ir.dim).transpose(1, 2))
    return torch.cat([torch.cat(blocks[ir], dim=2).flatten(1) for ir in sorted(blocks)], dim=1)


def channels_within(irreps: o3.Irreps) -> list[slice]:
    """Where the channels of each entry lie among all channels of its irrep."""
    seen: dict[o3.Irrep, int] = {}
    slices = []
    for mul, ir in irreps:
        start = seen.get(ir, 0)
        slices.append(slice(start, start + mul))
        seen[ir] = start + mul
    return slices


def fill(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values.reshape(parameter.shape))


def fill_linear(theirs: o3.Linear, weights: dict[str, Tensor] | nn.ParameterDict, gates: Tensor | None = None) -> None:
    """`weights`: [in, out] for each irrep; `gates`: order of the even scalars that leave, if it is not ours."""
    rows, columns = channels_within(theirs.irreps_in), channels_within(theirs.irreps_out)
    blocks = []
    for path in (path for path in theirs.instructions if path.i_in >= 0):  # the others are biases
        ir = theirs.irreps_in[path.i_in].ir
        blocks.append(_ordered(weights[str(ir)], ir, gates)[rows[path.i_in], columns[path.i_out]].flatten())
    fill(theirs.weight, torch.cat(blocks))


def fill_species(theirs: o3.FullyConnectedTensorProduct, ours: SpeciesLinear, gates: Tensor | None = None) -> None:
    """Ours [species or feature, in, out], theirs [in, species or feature, out] for each path."""
    rows, columns = channels_within(theirs.irreps_in1), channels_within(theirs.irreps_out)
    blocks = []
    for path in theirs.instructions:
        ir = theirs.irreps_in1[path.i_in1].ir
        W = _ordered(ours.weights[str(ir)], ir, gates)[:, rows[path.i_in1], columns[path.i_out]]
        blocks.append(W.transpose(0, 1).flatten())
    fill(theirs.weight, torch.cat(blocks))


def _ordered(W: Tensor, ir: o3.Irrep, gates: Tensor | None) -> Tensor:
    return W if gates is None or ir != o3.Irrep("0e") else W[..., gates]


def gate_order(gate: nn.Module) -> Tensor:
    """Our index of each even scalar before their gate: ours are the scalars, then gates as the sorted irreps."""
    scalars = gate.irreps_scalars.count("0e")
    gated = list(gate.irreps_gated)
    starts, start = {}, scalars
    for mul, ir in sorted(gated, key=lambda term: term[1]):
        starts[ir], start = start, start + mul
    return torch.cat([torch.arange(scalars), *(torch.arange(mul) + starts[ir] for mul, ir in gated)])


def path_columns(layer: Interaction, tp: o3.TensorProduct) -> Tensor:
    """Our column of each of their radial weights."""
    starts, start = {}, 0
    for path in layer.plan.convolution.paths:
        starts[str(path.ir_in), path.ell, str(path.ir_out)] = start
        start += path.mul
    columns = []
    for path in tp.instructions:
        mul, ir_in = tp.irreps_in1[path.i_in1]
        key = (str(ir_in), tp.irreps_in2[path.i_in2].ir.l, str(tp.irreps_out[path.i_out].ir))
        columns.append(starts[key] + torch.arange(mul))
    return torch.cat(columns)


def mixing_weights(layer: Interaction, tp: o3.TensorProduct) -> dict[str, Tensor]:
    """Our matrices W that mix paths, with rows in the order in which their product makes the channels."""
    columns = path_columns(layer, tp).split([tp.irreps_in1[path.i_in1].mul for path in tp.instructions])
    slots = sorted(zip((path.i_out for path in tp.instructions), columns, strict=True), key=lambda slot: slot[0])
    rows: dict[str, list[Tensor]] = {}
    for slot, index in slots:
        rows.setdefault(str(tp.irreps_out[slot].ir), []).append(index)
    starts = {ir: min(int(index.min()) for index in found) for ir, found in rows.items()}
    return {ir: layer.mix.weights[ir][torch.cat(found) - starts[ir]] for ir, found in rows.items()}


def fill_network(theirs: nn.Module, layer: Interaction, tp: o3.TensorProduct) -> None:
    *hidden, last = layer.radial.weights
    parameters = list(theirs.parameters())
    for parameter, W in zip(parameters, [*hidden, last[:, path_columns(layer, tp)]], strict=True):
        fill(parameter, W)


def fill_radial(theirs: AgnosticRadial | ElementRadial, layer: Interaction, tp: o3.TensorProduct) -> None:
    if isinstance(theirs, AgnosticRadial):
        fill_network(theirs.net, layer, tp)
    else:
        fill(theirs.weights, layer.radial.weight[:, :, path_columns(layer, tp)])


def fill_embedding(theirs: OneHotEmbedding, ours: Potential) -> None:
    fill(theirs.linear.weight, ours.embedding.weight)


def fill_last_readout(theirs: HiddenReadout | BiasedReadout | o3.Linear, ours: nn.Module) -> None:
    if isinstance(theirs, BiasedReadout):
        fill_linear(theirs.linear_1, ours.first.weights)
        fill_linear(theirs.linear_mid, ours.middle[0].weights)
        fill_linear(theirs.linear_2, ours.second.weights)
        for linear, bias in zip((theirs.linear_mid, theirs.linear_2), ours.biases, strict=True):
            fill(linear.bias, bias)
    elif isinstance(theirs, HiddenReadout):
        fill_linear(theirs.linear_1, ours.first.weights)
        fill_linear(theirs.linear_2, ours.second.weights)
    else:
        fill_linear(theirs, ours.linear.weights)


def energy_terms(potential: Potential) -> Energy:
    E0 = potential.E0.detach().clone()
    return Energy(E0, *(term.detach().expand_as(E0).clone() for term in (potential.scale, potential.shift)))


def fill_botnet(theirs: botnet.BOTNet, ours: Potential) -> None:
    fill_embedding(theirs.embedding, ours)
    for block, layer in zip(theirs.blocks, ours.layers, strict=True):
        gates = gate_order(block.gate) if block.gate else None
        fill_linear(block.linear_up, layer.up.weights)
        fill_radial(block.radial, layer, block.conv_tp)
        fill_linear(block.linear, mixing_weights(layer, block.conv_tp), gates)
        if block.form != "no_sc":
            ours_sc = layer.species_weights if block.form == "first" else layer.self_connection
            fill_species(block.skip_tp, ours_sc, gates)
    *heads, last = ours.readouts
    for readout, head in zip(theirs.readouts, heads, strict=False):
        fill_linear(readout, head.linear.weights)
    fill_last_readout(theirs.last_readout, last)


def fill_nequip_published(theirs: nequip.Published, ours: Potential) -> None:
    fill(theirs.bessel_weights, ours.radial_basis.functions.frequencies)
    fill_embedding(theirs.chemical_embedding, ours)
    for block, layer in zip(theirs.layers, ours.layers, strict=True):
        fill_network(block.fc, layer, block.tp)
        fill_linear(block.linear_1, layer.up.weights)
        fill_linear(block.linear_2, mixing_weights(layer, block.tp), gate_order(block.gate))
        fill_species(block.sc, layer.self_connection, gate_order(block.gate))
    fill_last_readout(theirs.readout, ours.readouts[-1])


def fill_nequip_current(theirs: nequip.Current, ours: Potential) -> None:
    fill(theirs.type_embed.weight, ours.embedding.weight)
    for block, layer in zip(theirs.layers, ours.layers, strict=True):
        fill_network(block.mlp, layer, block.tp)
        fill_linear(block.linear_1, layer.up.weights)
        fill_linear(block.linear_2, mixing_weights(layer, block.tp), gate_order(block.gate))
        if block.sc is not None:
            fill_species(block.sc, layer.self_connection, gate_order(block.gate))
    fill(theirs.readout, ours.readouts[-1].linear.weights["0e"])


def fill_nequix(theirs: nequix.Nequix, ours: Potential) -> None:
    for block, layer in zip(theirs.layers, ours.layers, strict=True):
        fill_network(block.mlp, layer, block.tp)
        fill_linear(block.linear_1, layer.up.weights)
        fill_linear(block.linear_2, mixing_weights(layer, block.tp))
        for s, skip in enumerate(block.skip):
            S = layer.self_connection
            weights = {ir: W[s] for ir, W in S.weights.items()} if len(block.skip) > 1 else S.linear.weights
            fill_linear(skip, weights)
        for parameter, weight in zip(block.affine or [], layer.norm_update.parameters(), strict=True):
            fill(parameter, weight)
    fill(theirs.readout, ours.readouts[-1].linear.weights["0e"])


def fill_mace_layer(block: mace.Layer, layer: Interaction) -> None:
    fill_radial(block.radial, layer, block.conv_tp)
    fill_linear(block.linear, mixing_weights(layer, block.conv_tp))
    fill_species(block.skip_tp, layer.self_connection if block.residual else layer.species_weights)
    if block.density_fn is not None:
        fill(block.density_fn.layer0.weight, layer.normalise.weight)


def fill_nonlinear_layer(block: mace.NonLinearLayer, layer: Interaction) -> None:
    fill(block.source.weight, layer.pair_embedding.sender)
    fill(block.target.weight, layer.pair_embedding.receiver)
    fill_layer_norm_network(block.radial, layer.radial.mlp, path_columns(layer, block.conv_tp))
    fill_layer_norm_network(block.density_fn, layer.normalise.mlp)
    fill(block.alpha, layer.normalise.alpha)
    fill(block.beta, layer.normalise.beta)
    fill_linear(block.linear_1, mixing_weights(layer, block.conv_tp))
    fill_linear(block.linear_res, layer.message_residual.linear.weights)
    fill_linear(block.linear_2, layer.message_mix.weights)
    fill_linear(block.skip, layer.self_connection.linear.weights)


def fill_layer_norm_network(theirs: nn.Sequential, ours: nn.Module, columns: Tensor | slice = slice(None)) -> None:
    linears = [module for module in theirs if isinstance(module, nn.Linear)]
    norms = [module for module in theirs if isinstance(module, nn.LayerNorm)]
    for theirs_n, ours_n in zip([*linears[:-1], *norms], [*ours.linears[:-1], *ours.norms], strict=True):
        fill(theirs_n.weight, ours_n.weight)
        fill(theirs_n.bias, ours_n.bias)
    fill(linears[-1].weight, ours.linears[-1].weight[columns])
    fill(linears[-1].bias, ours.linears[-1].bias[columns])


def fill_mace(theirs: mace.MACE, ours: Potential) -> None:
    fill_embedding(theirs.node_embedding, ours)
    for block, layer in zip(theirs.layers, ours.layers, strict=True):
        fill_linear(block.linear_up, layer.up.weights)
        (fill_nonlinear_layer if isinstance(block, mace.NonLinearLayer) else fill_mace_layer)(block, layer)
        for name, w in layer.product.weights.items():
            ir, nu = name.split("_nu")
            block.product.weights[ir, int(nu)] = w.detach().transpose(0, 1).expand(block.num_species, -1, -1)
        fill_linear(block.product.linear, layer.down.weights)
    *heads, last = ours.readouts
    for readout, head in zip(theirs.readouts, heads, strict=False):
        fill_linear(readout, head.linear.weights)
    fill_last_readout(theirs.last_readout, last)
