"""A Ray cluster of two nodes on this machine, by Ray's own utility for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

N_NODES = 2


@contextmanager
def run_cluster(path: str, cpus_per_node: int = 1) -> Iterator[Any]:
    """Start a cluster whose processes find modules on `path`; stop it at the end.

    Yields:
        Ray's `Cluster`.
    """
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": cpus_per_node, "include_dashboard": False, "object_store_memory": 2**27}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        for _ in range(N_NODES - 1):
            cluster.add_node(**options)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            os.environ.pop("RAY_ADDRESS", None)
