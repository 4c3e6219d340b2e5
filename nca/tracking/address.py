"""Addresses of MLflow stores, refused in a line where they cannot be one."""

from __future__ import annotations

from nca.schema import ConfigError
from sweeps.server import has_password, without_password

__all__ = ["check_address", "refuse_password"]

SERVER_TIMEOUT_S = 10.0
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")  # MLflow 3 refuses its file store


def check_address(uri: str) -> None:
    """Refuse an address that MLflow does not know, or a server that is not there, without importing MLflow.

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
    if scheme in ("http", "https") and not _answers(uri):
        # MLflow itself would try for minutes, and in every trial.
        raise ConfigError(f"tracking.uri={uri}: no server answers there; start it, or give tracking=none")


def refuse_password(uri: str) -> None:
    """Refuse an address with a password.

    Raises:
        ConfigError: If it holds one; without it.
    """
    if has_password(uri):
        instead = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise ConfigError(
            f"tracking.uri={without_password(uri)}: leave the password out of the address, where it would be "
            f"recorded; give it in {instead if uri.startswith('http') else 'PGPASSWORD or in ~/.pgpass'}"
        )


def _answers(uri: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(uri, timeout=SERVER_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
