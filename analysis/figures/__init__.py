"""Figures from tables, without I/O."""
