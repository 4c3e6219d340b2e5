"""Check of a tracking URI before anything is recorded there."""

from __future__ import annotations

from http import HTTPStatus

from nca.cli.errors import ConfigError
from nca.tracking.client import LOGIN, check_no_password, load_mlflow

SERVER_TIMEOUT_S = 10.0
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")  # MLflow 3 refuses its file store


def check_address(uri: str) -> None:
    """Refuse a tracking URI that MLflow does not know, and a server that does not answer or accept the login.

    Imports MLflow only if a server asks for a login.

    Raises:
        ConfigError: If so.
    """
    check_no_password(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"tracking.uri={uri}: must begin with one of {known}")
    if scheme.startswith("sqlite") and rest.strip("/") in ("", ":memory:"):
        raise ConfigError(f"tracking.uri={uri}: trials cannot share a store in memory; give a file")
    if scheme not in ("http", "https"):
        return
    status = _get_status(uri)
    if status is None:
        # MLflow itself would try for minutes, and in every trial.
        raise ConfigError(f"tracking.uri={uri}: no server answers there; start it, or give tracking=none")
    if status == HTTPStatus.UNAUTHORIZED and not _accepts_login(uri):
        raise ConfigError(
            f"tracking.uri={uri}: the server asks for a login and refuses the one given; set {LOGIN}, "
            "or give tracking=none"
        )


def _get_status(uri: str) -> int | None:
    """Return the HTTP status of a server, None if it does not answer."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(uri, timeout=SERVER_TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def _accepts_login(uri: str) -> bool:
    """Return whether a server accepts the login that MLflow's client finds, in any of several places."""
    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        return str(error.error_code) != "UNAUTHENTICATED"
    return True
