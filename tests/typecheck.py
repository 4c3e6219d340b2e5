"""The run-time type checker of tests."""

from beartype import BeartypeConf, beartype

__all__ = ["check"]

# A number may be given as an int where a float is annotated, as for static checkers.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
