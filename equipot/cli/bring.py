"""`equipot convert`: published models of other codes become model files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipot.cli.output import Dtype, Json, check_output, command, note, print_json, print_table
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.convert import Converted


@command
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Model of mace-torch, nequip, BOTNet or Nequix: a state dict (.pt, .safetensors) with its JSON "
            "file, a whole pickled model, a .nqx, a .ckpt or .nequip.zip of nequip, the folder of a nequip 0.5 run.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Model file to write, NAME.equipot.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of hyper-parameters for a state dict; default: the one beside it.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Head of a model with several.")] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Open a pickled model, which may run any code its author put into it."),
    ] = False,
    energy_unit: Annotated[
        str,
        typer.Option(help="Unit of the model's energies: eV, meV, kcal/mol, kJ/mol, hartree, rydberg; lengths are Å."),
    ] = "eV",
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Convert a published model: the same energies, forces and stresses, as a model file of equipot.

    Nothing is approximated: what equipot does not have is refused by name.
    """
    from equipot.convert import convert_model
    from equipot.models.model_file import SUFFIX, save_potential

    if out.suffix != SUFFIX:
        raise EquipotError(f"{out}: a model file ends in {SUFFIX}; write {out.with_suffix(SUFFIX)}.")
    check_output("OUT", out, [source, *([config] if config else [])])
    converted = convert_model(
        source, config=config, head=head, trust_pickle=trust_pickle, dtype=dtype, energy_unit=energy_unit
    )
    save_potential(out, converted.potential, provenance=converted.provenance)
    if json:
        print_json({"model": str(out), **_facts(converted), "design": converted.potential.design.model_dump()})
    else:
        print_table(str(out), ["", ""], [[name.replace("_", " "), value] for name, value in _facts(converted).items()])
    assumed = converted.provenance["converted_from"]["assumed"]
    if assumed:
        listed = ", ".join(f"{key} = {value!r}" for key, value in assumed.items())
        note(f"assumed, because the hyper-parameters do not say (the other code's defaults): {listed}")
    note(f"{out} is ready; check it with: equipot info {out} --check")


def _facts(converted: "Converted") -> dict[str, str]:
    from ase.data import chemical_symbols

    from equipot.models.model_file import dtype_name
    from equipot.points import named_point, nearest_point

    potential, source = converted.potential, converted.provenance["converted_from"]
    point = nearest_point(potential.design)
    changed = potential.design.differences(named_point(point))
    species = [chemical_symbols[z] for z in potential.statistics.species]
    counts = sum(parameter.numel() for parameter in potential.parameters())
    return {
        "converted_from": f"{source['file']}, {source['code']} {source['version']}".rstrip(),
        **({"head": source["head"]} if source["head"] else {}),
        "design": f"{point}, with "
        + (", ".join(f"{axis}={value[0]}" for axis, value in changed.items()) or "no change"),
        **({"energies": f"from {source['energy_unit']} to eV"} if source["energy_unit"] != "eV" else {}),
        "elements": ", ".join(species) if len(species) <= 12 else f"{len(species)}, {species[0]} to {species[-1]}",
        "parameters": f"{counts}, {dtype_name(potential.dtype)}",
        "cutoff": f"{potential.design.r_max:g} Å, {potential.design.layers} layers",
    }
