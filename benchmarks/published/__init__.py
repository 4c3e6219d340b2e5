"""Three published programs that train automata on textures, transcribed in plain PyTorch.

Google's texture notebook (Niklasson et al. 2021, "Self-Organising Textures"; its version of 2022 with sliced
optimal transport), muNCA (Mordvintsev and Niklasson 2021, "muNCA: Texture Generation with Ultra-Compact
Neural Cellular Automata") and NoiseNCA (Pajouheshgar et al. 2024, "NoiseNCA: Noisy Seed Improves
Spatio-Temporal Continuity of Neural Cellular Automata"). Nothing here shares code with `nca`, nor with these
programs, which are under the Apache License 2.0 (the first two) and the MIT License.
"""
