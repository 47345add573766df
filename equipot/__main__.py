"""Makes `python -m equipot` and `torchrun -m equipot` the command line."""

from equipot.cli import main

if __name__ == "__main__":
    main()
