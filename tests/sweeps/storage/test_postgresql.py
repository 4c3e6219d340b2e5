"""Passwords in addresses are found and not repeated; what needs a server is tested with one."""

from __future__ import annotations

import pytest

from nca.cli.errors import ConfigError
from nca.tracking.client import check_address
from sweeps import SweepError
from sweeps.storage.optuna_storage import open_storage
from sweeps.storage.postgresql import describe_password

SECRETS = [  # address and how it is shown
    ("postgresql+psycopg://nca:hor/se@host/db", "postgresql+psycopg://nca@host/db"),
    ("postgresql+psycopg://nca:hor@se@host/db", "postgresql+psycopg://nca@host/db"),
    ("postgresql://nca:hor%2Fse@host:5432/db", "postgresql://nca@host:5432/db"),
    ("postgresql://nca:@host/db", "postgresql://nca@host/db"),
    ("postgresql://nca@host/db?PASSWORD=horse", "postgresql://nca@host/db"),
    ("postgresql://host/db?sslmode=require&sslpassword=horse", "postgresql://host/db?sslmode=require"),
    ("mysql+pymysql://host/db?passwd=horse", "mysql+pymysql://host/db"),
    ("mssql+pyodbc:///?odbc_connect=Server%3Dhost%3BPWD%3Dhorse", "mssql+pyodbc:///"),
    ("postgresql://nca:horse@host:port/db", "postgresql://..."),
    ("http://nca:hor/se@host:5000", "http://nca@host:5000"),
]
HARMLESS = [
    "sqlite:////home/a@b:c/optuna.db",
    "postgresql+psycopg://nca@host:5432/db?passfile=/home/nca/.pgpass",
    "https://host:5000/mlflow",
    "foo",
]


@pytest.mark.parametrize(("address", "shown"), SECRETS)
def test_a_password_is_refused_and_not_repeated(address: str, shown: str) -> None:
    message = f"{shown}: leave the password out of the address"
    with pytest.raises(SweepError) as refused:
        open_storage(address)
    assert str(refused.value).startswith(f"sweep.storage={message}")
    with pytest.raises(ConfigError) as of_mlflow:
        check_address(address)
    assert str(of_mlflow.value).startswith(f"tracking.uri={message}")
    assert "hor" not in f"{refused.value}{of_mlflow.value}"


@pytest.mark.parametrize("address", HARMLESS)
def test_an_address_without_a_password_is_not_refused(address: str) -> None:
    assert describe_password(address) is None
