"""The scripts that write a living model as plain weights: where they lie, in the words of messages."""

from pathlib import Path

FOLDER = Path(__file__).parent / "export"
"""Each script in it stands alone and may be copied to where the other code is installed."""


def elsewhere(script: str) -> str:
    """Returns the advice to export a model where its code is installed.

    Args:
        script: Name of the exporter, such as ``export_mace.py``.
    """
    return (
        f"Copy {FOLDER / script} to the environment that has the other code, run it there (python {script} MODEL "
        "weights.pt), and convert the plain weights.pt that it writes, which needs neither that code nor trust."
    )
