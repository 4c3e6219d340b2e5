"""Ratings of outputs by eye."""
