"""Texture-growing neural cellular automata: their loss, their training, their hyperparameter sweeps."""

__version__ = "0.1.0"
