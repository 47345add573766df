"""Scripts that write a living model of another code as plain weights and hyper-parameters.

Each file stands alone (torch and the standard library only), so that it can be copied to where the other code is
installed: ``python export_mace.py MODEL weights.pt`` writes weights.pt and weights.json. equipot calls their `export`
itself after `--trust-pickle`.
"""
