"""A sweep engine on Optuna: all slots busy, an exact total of trials, each in a process of its own.

What a trial does is up to an application, given by its dotted path (`sweeps.application`).
"""

__all__ = ["SweepError"]


class SweepError(Exception):
    """An error for the user: one line that says what is wrong and what to do."""
