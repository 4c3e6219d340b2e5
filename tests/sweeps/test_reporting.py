"""A sweep's headline holds what is known."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.reporting import make_headline
from sweeps.trials import FIRST_ATTEMPT, REASON, RETRY_OF


def trial(number: int, state: TrialState, value: float | None = None, /, **attributes: object) -> FrozenTrial:
    made = create_trial(state=state, value=value, user_attrs=attributes)
    made.number = number
    return made


def test_a_headline_holds_only_what_is_known() -> None:
    assert make_headline("leaf", [], 8, None) == "leaf: 0/8 trials"
    trials = [
        trial(0, TrialState.COMPLETE, 0.5),
        trial(1, TrialState.FAIL, **{REASON: "killed"}),
        trial(2, TrialState.COMPLETE, 0.012345, **{RETRY_OF: 1, FIRST_ATTEMPT: 1}),
        trial(3, TrialState.PRUNED),
        trial(4, TrialState.RUNNING),
    ]
    expected = "leaf: 3/8 trials, 1 pruned, best 0.01235 (trial 1), 3 min 20 s left"
    assert make_headline("leaf", trials, 8, 200.0) == expected
