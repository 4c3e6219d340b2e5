"""Experiment tracking: the only package that imports MLflow."""

from nca.tracking.client import load_mlflow, mlflow_errors
from nca.tracking.outbox import find_outboxes
from nca.tracking.relocation import check_not_relocated, find_relocated, relocate
from nca.tracking.store import MlflowStore, describe_folder
from nca.tracking.tracker import FOLDER_TAG, MlflowTracker, Status, Tracker
from nca.tracking.uri import check_address

__all__ = [
    "FOLDER_TAG",
    "MlflowStore",
    "MlflowTracker",
    "Status",
    "Tracker",
    "check_address",
    "check_not_relocated",
    "describe_folder",
    "find_outboxes",
    "find_relocated",
    "load_mlflow",
    "mlflow_errors",
    "relocate",
]
