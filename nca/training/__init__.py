"""Training: one run from a checked config to its outcome."""
