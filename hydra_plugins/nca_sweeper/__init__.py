"""Hydra finds the sweeper here; hydra_plugins/ itself must have no `__init__.py`."""
