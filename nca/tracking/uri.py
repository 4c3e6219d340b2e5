"""Addresses of MLflow stores, refused in a line where they cannot be one."""

from __future__ import annotations

from http import HTTPStatus

from nca.cli.errors import ConfigError
from sweeps.storage.postgresql import has_password, without_password

__all__ = ["check_address", "refuse_password"]

SERVER_TIMEOUT_S = 10.0
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")  # MLflow 3 refuses its file store


def check_address(uri: str) -> None:
    """Refuse an address that MLflow does not know, and a server that is not there or wants another login.

    Imports MLflow only where a server asks for a login.

    Raises:
        ConfigError: If so.
    """
    refuse_password(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"tracking.uri={uri}: must begin with one of {known}")
    if scheme.startswith("sqlite") and rest.strip("/") in ("", ":memory:"):
        raise ConfigError(f"tracking.uri={uri}: trials cannot share a store in memory; give a file")
    if scheme not in ("http", "https"):
        return
    status = _ask(uri)
    if status is None:
        # MLflow itself would try for minutes, and in every trial.
        raise ConfigError(f"tracking.uri={uri}: no server answers there; start it, or give tracking=none")
    if status == HTTPStatus.UNAUTHORIZED and not _lets_in(uri):
        raise ConfigError(
            f"tracking.uri={uri}: asks for a login, and refuses what it was given; set {LOGIN}, "
            "or give tracking=none"
        )


def refuse_password(uri: str) -> None:
    """Refuse an address with a password.

    Raises:
        ConfigError: If it holds one; without it.
    """
    if has_password(uri):
        raise ConfigError(
            f"tracking.uri={without_password(uri)}: leave the password out of the address, where it would be "
            f"recorded; give it in {LOGIN if uri.startswith('http') else 'PGPASSWORD or in ~/.pgpass'}"
        )


def _ask(uri: str) -> int | None:
    """Return the HTTP status of an address, None where nobody answers."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(uri, timeout=SERVER_TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def _lets_in(uri: str) -> bool:
    """Say whether MLflow's client finds a login that the server takes; it has several places to look."""
    from nca.tracking.client import load_mlflow

    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        return str(error.error_code) != "UNAUTHENTICATED"
    return True
