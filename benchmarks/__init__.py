"""Timings and memory, side by side in one run, as ratios. Not part of the installed package."""

import nca  # noqa: F401 - before torch: how its threads wait
