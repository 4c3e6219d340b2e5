"""The only door to MLflow, and a tracker that records nothing."""

from nca.tracking.client import load_mlflow, one_line
from nca.tracking.outbox import find_outboxes
from nca.tracking.relocation import Moved, find_moved, refuse_moved, take_along
from nca.tracking.store import MlflowStore, describe_folder
from nca.tracking.tracker import FOLDER, MlflowTracker, Status, Tracker
from nca.tracking.uri import check_address

__all__ = [
    "FOLDER",
    "MlflowStore",
    "MlflowTracker",
    "Moved",
    "Status",
    "Tracker",
    "check_address",
    "describe_folder",
    "find_moved",
    "find_outboxes",
    "load_mlflow",
    "one_line",
    "refuse_moved",
    "take_along",
]
