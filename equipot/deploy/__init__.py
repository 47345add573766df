"""A trained potential at work: ASE calculator, molecular dynamics, relaxation, and its health check."""
