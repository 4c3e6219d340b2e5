"""A sweep engine on Optuna: every slot busy, an exact total, trials in processes of their own.

It knows nothing of what a trial does: an application gives that by dotted path (`sweeps.worker`).
"""

__all__ = ["SweepError"]


class SweepError(Exception):
    """A sweep cannot start or go on as asked: one line for the user, with what to do."""
