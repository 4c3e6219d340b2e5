"""The only door to MLflow, and a tracker that records nothing."""

from nca.tracking.client import load_mlflow, one_line
from nca.tracking.outbox import find_outboxes
from nca.tracking.relocation import check_not_relocated, find_relocated, relocate
from nca.tracking.store import MlflowStore, describe_folder
from nca.tracking.tracker import FOLDER, MlflowTracker, Status, Tracker
from nca.tracking.uri import check_address

__all__ = [
    "FOLDER",
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
    "one_line",
    "relocate",
]
