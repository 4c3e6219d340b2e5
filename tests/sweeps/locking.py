"""The contract of a storage's study lock, whatever the database."""

from __future__ import annotations

import threading

from sweeps.storage.optuna_storage import open_storage

__all__ = ["expect_study_lock"]

WHILE_S = 0.3
TIMEOUT_S = 10.0


def expect_study_lock(address: str) -> None:
    """Lock a study, and expect another storage to get the lock afterwards and not before."""
    ours, theirs = open_storage(address), open_storage(address)
    taken = threading.Event()

    def take() -> None:
        with theirs.study_lock(1):
            taken.set()

    thread = threading.Thread(target=take)
    with ours.study_lock(1):
        thread.start()
        assert not taken.wait(WHILE_S)
    assert taken.wait(TIMEOUT_S)
    thread.join()
    for storage in (ours, theirs):
        storage.remove_session()
        storage.engine.dispose()
