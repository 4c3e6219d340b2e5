"""Experiments of an MLflow store, each with the study that owns it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError
from nca.tracking.client import mlflow_errors
from nca.tracking.relocation import relative_path_tag
from nca.tracking.saved_views import encode_views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

OWNER = "study_uid"  # tag of an experiment
ACTIVE = "active"  # MLflow's lifecycle stage of what is not deleted


class Experiments:
    """The experiments of one store.

    Args:
        client: Of the store.
        uri: Of the store.
    """

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri

    def open(self, name: str, artifacts: Path, owner: str | None = None) -> str:
        """Return the id of an experiment, created if missing.

        One that was deleted in the UI, which keeps its name, is restored with its runs.

        Args:
            name: Its name.
            artifacts: Folder of the artifacts of a new one; a server ignores it.
            owner: Unique id of the study that owns it; None for an experiment without an owner.

        Raises:
            ConfigError: If another study owns it.
            MlflowException: If it can be neither found nor created.
        """
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            location = None if self._uri.startswith("http") else artifacts.absolute().as_uri()
            tags = relative_path_tag(self._uri, artifacts) | ({OWNER: owner} if owner else {})
            try:
                self._client.create_experiment(name, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # created by another process meanwhile
                    raise
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        if not _may_use(experiment, owner):
            raise ConfigError(
                f"tracking.uri={self._uri}: experiment '{name}' belongs to another study of the same name; "
                "rename this one with sweep.study=NAME, or, if the other one no longer exists, "
                "python -m nca.studies delete NAME"
            )
        id_ = str(experiment.experiment_id)
        if experiment.lifecycle_stage != ACTIVE:
            self._client.restore_experiment(id_)
        if owner is not None and OWNER not in experiment.tags:  # of a version without owners
            self._client.set_experiment_tag(id_, OWNER, owner)
        return id_

    def save_views(self, id_: str, metrics: Sequence[str], params: Sequence[str], last_step: int) -> None:
        """Save, or bring up to date, the views in which MLflow's page shows a study.

        Args:
            id_: Its experiment.
            metrics: Those shown; the first one orders the trials.
            params: What it searches, by dotted key.
            last_step: Training step of the outputs shown.
        """
        experiment = self._client.get_experiment(id_)
        views = encode_views(metrics, params, last_step, experiment.creation_time or 0)
        for tag, view in views.items():
            if experiment.tags.get(tag) != view:
                self._client.set_experiment_tag(id_, tag, view)

    def find(self, name: str, owner: str | None = None) -> str | None:
        """Return the id of an experiment, also of one in MLflow's trash.

        Args:
            name: Its name.
            owner: Only if this study owns it; None for any owner.
        """
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or (owner is not None and not _may_use(experiment, owner)):
            return None
        return str(experiment.experiment_id)

    def delete(self, id_: str) -> None:
        """Delete an experiment with its runs and artifacts, and free its name.

        A server only marks it as deleted, under another name, until `mlflow gc` is run there.

        Raises:
            ConfigError: If the store cannot be written, or `mlflow gc` fails; the command can be repeated.
        """
        on_server = self._uri.startswith("http")
        with mlflow_errors(self._uri):
            experiment = self._client.get_experiment(id_)
            if on_server:
                if experiment.lifecycle_stage != ACTIVE:
                    self._client.restore_experiment(id_)  # MLflow renames no deleted experiment
                self._client.rename_experiment(id_, f"{experiment.name} (deleted, {id_})")
            if on_server or experiment.lifecycle_stage == ACTIVE:
                self._client.delete_experiment(id_)
        if not on_server:
            self._collect_garbage(id_)

    def _collect_garbage(self, id_: str) -> None:
        options = ["--backend-store-uri", self._uri, "--experiment-ids", id_]
        command = [sys.executable, "-m", "mlflow", "gc", *options]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self._uri}
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise ConfigError(
                f"tracking.uri={self._uri}: mlflow gc cannot delete experiment {id_} ({reason}); remove the "
                "cause, and repeat the command"
            )

    def running_runs(self, name: str, owner: str | None = None) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's RUNNING runs by run id; none if another study owns it."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or not _may_use(experiment, owner):
            return {}
        return self.run_tags(experiment.experiment_id, "attributes.status = 'RUNNING'")

    def run_tags(self, experiment_id: str, condition: str = "") -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs by run id; none if the store has no such experiment.

        Args:
            experiment_id: The experiment.
            condition: Of the runs, in MLflow's search syntax.

        Raises:
            MlflowException: If the store does not answer.
        """
        found: dict[str, dict[str, str]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], condition, max_results=5000, page_token=token)
            found |= {str(run.info.run_id): dict(run.data.tags) for run in page}
            token = page.token
            if not token:
                return found


def _may_use(experiment: Experiment, owner: str | None) -> bool:
    """Return whether an experiment has no owner, or this one."""
    return experiment.tags.get(OWNER, owner) == owner
