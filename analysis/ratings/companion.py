"""The companion study in which outputs are rated in the Optuna dashboard: `<study>/ratings`.

A complete trial's page takes no rating. So each has a clone there that stays RUNNING until it is
rated.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from datetime import UTC

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState, create_trial
from optuna_dashboard import SliderWidget, register_objective_form_widgets, save_note

from analysis.ratings.ratings import DASHBOARD_RATER, LARGEST, Rating
from nca.records.paths import Places
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import RATINGS, find_study

__all__ = ["RATINGS", "collect", "top_up"]

TRIAL = "trial"  # attribute: number of the trial that a clone stands for
ARTIFACT = "artifacts:"  # how attributes that name a picture begin
TARGET = "target"
SCALE = f"{LARGEST}: color and pattern extremely close to the target; 0: completely different"
NOTE = f"""Rate each trial's output beside the target, from 0 to {LARGEST}, on the page of the trial.

{SCALE}.

A submitted rating is final. `python -m analysis.ratings study=...` copies it to the study, and brings what
was trained since.
"""


def top_up(places: Places, study: str, trials: Collection[int]) -> int:
    """Clone the trials that have no clone yet, and create the study where it is missing; return how many.

    Args:
        places: Where records are.
        study: Whose trials.
        trials: Numbers of those that can be rated.
    """
    if not trials:
        return 0
    storage = open_storage(places.storage, create=False)
    source = find_study(storage, study)
    assert source is not None
    companion = _open(storage, study + RATINGS)
    known = {trial.user_attrs[TRIAL] for trial in companion.get_trials(deepcopy=False)}
    target = _upload_target(places, study, storage, companion)
    new = [t for t in source.get_trials(deepcopy=False) if t.number in trials and t.number not in known]
    for trial in new:
        pictures = {key: value for key, value in trial.system_attrs.items() if key.startswith(ARTIFACT)}
        clone = create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={TRIAL: trial.number},
            system_attrs={**target, **pictures},
        )
        companion.add_trial(clone)
    return len(new)


def collect(places: Places, study: str) -> list[Rating]:
    """Return the ratings that were submitted in the dashboard."""
    companion = find_study(open_storage(places.storage, create=False), study + RATINGS)
    if companion is None:
        return []
    return [
        Rating(
            trial=trial.user_attrs[TRIAL],
            rater=DASHBOARD_RATER,
            look=0,
            rating=trial.values[0],
            at=trial.datetime_complete.astimezone(UTC).isoformat(timespec="milliseconds"),
        )
        for trial in companion.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if trial.values and trial.datetime_complete is not None
    ]


def _open(storage: RDBStorage, name: str) -> Study:
    known = find_study(storage, name)
    if known is not None:
        return known
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        companion = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        companion.set_metric_names(["rating"])
    register_objective_form_widgets(companion, [SliderWidget(min=0, max=LARGEST, step=1, description=SCALE)])
    save_note(companion, NOTE)
    return companion


def _upload_target(places: Places, study: str, storage: RDBStorage, companion: Study) -> dict[str, str]:
    """Return what makes a trial's page show the target, uploaded once."""
    known = companion.user_attrs.get(TARGET)
    if known is not None:
        return dict(known)
    picture = places.find_target(study)
    if picture is None:
        return {}
    folder = places.runs / "artifacts" / "optuna"
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    id_ = upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=companion)
    key = ARTIFACT + id_
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name(companion.study_name))
    attribute = {key: attributes[key]}
    companion.set_user_attr(TARGET, attribute)
    return attribute
