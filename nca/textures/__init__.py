"""Target images."""
