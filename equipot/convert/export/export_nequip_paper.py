"""A deployed NequIP model of nequip 0.5 or 0.6 as plain weights and its configuration.

Stands alone, with torch only: copy it anywhere and run

    python export_nequip_paper.py DEPLOYED.pth FOLDER

It writes FOLDER/config.yaml and FOLDER/best_model.pth, as the folder of a training has them. The folder of a training
itself needs no export. A deployed model is a program (TorchScript), which runs when it is loaded: open those only that
you trust.
"""

import sys
from pathlib import Path
from typing import Any

import torch


def export(path: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """Returns the configuration (YAML text) and the weights of a deployed model.

    Args:
        path: The file that nequip-deploy wrote.
    """
    files = {"config": "", "nequip_version": ""}
    model = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    texts = {name: text.decode() if isinstance(text, bytes) else text for name, text in files.items()}
    if not texts["config"]:
        raise ValueError(f"{path} is no deployed NequIP model: it has no configuration in it.")
    return texts["config"], {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def main() -> None:
    """Writes the folder."""
    if len(sys.argv) != 3:
        sys.exit("usage: python export_nequip_paper.py DEPLOYED.pth FOLDER")
    config, state = export(sys.argv[1])
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    torch.save(state, folder / "best_model.pth")
    print(f"{folder} is written; where equipot is: equipot convert {folder} MODEL.equipot")


if __name__ == "__main__":
    main()
