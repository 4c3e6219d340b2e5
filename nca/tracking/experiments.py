"""Experiments of an MLflow store: whose they are, their runs, how they are deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError
from nca.tracking.relocation import relative_path_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = ["ACTIVE", "Experiments"]

OWNER = "study_uid"  # tag of an experiment
ACTIVE = "active"  # in MLflow's: not deleted


class Experiments:
    """The experiments of a store.

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
            artifacts: Where its artifacts go; a server keeps them where it was told to.
            owner: Whose runs alone it holds; None for everybody's.

        Raises:
            ConfigError: If it is another's.
            MlflowException: If it can be neither found nor created.
        """
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            try:
                own = None if self._uri.startswith("http") else artifacts.absolute().as_uri()
                tags = relative_path_tag(self._uri, artifacts) | ({OWNER: owner} if owner else {})
                self._client.create_experiment(name, artifact_location=own, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        if not _may_use(experiment, owner):
            raise ConfigError(
                f"tracking.uri={self._uri}: experiment '{name}' holds the runs of another study of its name; "
                "give this one a name of its own with sweep.study=NAME, or, if that one has gone, "
                "python -m nca.studies delete NAME"
            )
        id_ = str(experiment.experiment_id)
        if experiment.lifecycle_stage != ACTIVE:
            self._client.restore_experiment(id_)
        if owner is not None and OWNER not in experiment.tags:  # begun before there were owners
            self._client.set_experiment_tag(id_, OWNER, owner)
        return id_

    def delete(self, name: str, owner: str | None = None) -> bool:
        """Delete an owner's experiment with its runs and artifacts, and free its name; say if it was there.

        None deletes it whosever it is.
        On a server it is only marked as deleted, under another name: `mlflow gc` there deletes it.
        """
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or (owner is not None and not _may_use(experiment, owner)):
            return False
        id_ = str(experiment.experiment_id)
        if experiment.lifecycle_stage != ACTIVE:
            self._client.restore_experiment(id_)  # what is deleted cannot be renamed
        self._client.rename_experiment(id_, f"{name} (deleted, {id_})")
        self._client.delete_experiment(id_)
        if not self._uri.startswith("http"):
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "mlflow",
                    "gc",
                    "--backend-store-uri",
                    self._uri,
                    "--experiment-ids",
                    id_,
                ],
                env={**os.environ, "MLFLOW_TRACKING_URI": self._uri},
                capture_output=True,
                check=True,
            )
        return True

    def running_runs(self, experiment: str, owner: str | None = None) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs that are RUNNING, by run id; none of another owner's."""
        known = self._client.get_experiment_by_name(experiment)
        if known is None or not _may_use(known, owner):
            return {}
        found = self._client.search_runs(
            [known.experiment_id], "attributes.status = 'RUNNING'", max_results=5000
        )
        return {str(run.info.run_id): dict(run.data.tags) for run in found}

    def all_tags(self, experiment_id: str) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs, by run id; empty where it is not in this store.

        Raises:
            MlflowException: If the store cannot be asked.
        """
        from mlflow.exceptions import MlflowException

        found: dict[str, dict[str, str]] = {}
        token = None
        try:
            while token is None or token:
                page = self._client.search_runs([experiment_id], max_results=5000, page_token=token)
                found |= {str(run.info.run_id): dict(run.data.tags) for run in page}
                token = page.token or ""
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return found


def _may_use(experiment: Experiment, owner: str | None) -> bool:
    """Say whether an experiment is an owner's, or nobody's."""
    return experiment.tags.get(OWNER, owner) == owner
