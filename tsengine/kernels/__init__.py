"""Numba kernels: arrays in, caller-owned arrays out. Knows numba and numpy, nothing else."""
