"""The saved views in which MLflow's page shows a study: a table of its trials, and charts.

MLflow keeps a saved view as a tag of its experiment: a JSON object with the view's name, its times and the
state of the page, which is deflated JSON in base 64. Views that a person saves have ids made of the time and
random letters, so these replace none of them.

Source: the tag that MLflow 3.17.2 writes when a view is saved in its page; the charts are those of its
mlflow/server/js/src/experiment-tracking/components/runs-charts/runs-charts.types.ts.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from nca.tracking.tracker import IMAGE_KEY, PARENT_TAG

TRIALS, CHARTS = "trials", "charts"  # ids of the views, in addresses
TAG = "mlflow.sharedViewState."  # of an experiment, with the id
NAMES = {TRIALS: "Trials, the best first", CHARTS: "Charts"}  # in the page's menu
PARENT = f"tags.`{PARENT_TAG}` != ''"
SHOWN = {TRIALS: PARENT, CHARTS: f"{PARENT} and attributes.status != 'KILLED'"}  # those have no last output
OUTPUTS, STUDY, OTHERS = "nca-outputs", "nca-study", "nca-metrics"  # ids of the page's sections
OUTPUTS_PX = 560  # height of the image grid: two rows
COLUMN_PX, LETTER_PX = 40, 8  # width of a column: both ends, and a letter of its name


def encode_views(
    metrics: Sequence[str], params: Sequence[str], last_step: int, created_at_ms: int
) -> dict[str, str]:
    """Return the tags of a study's experiment that hold the views.

    Args:
        metrics: Those shown; the first one orders the trials, the least first.
        params: What it searches, by dotted key.
        last_step: Training step of the outputs shown.
        created_at_ms: When the experiment was created, in milliseconds since 1970.
    """
    page = _page(metrics, params, last_step)
    times = {"createdAt": created_at_ms, "updatedAt": created_at_ms}
    views = {}
    for id_, name in NAMES.items():
        state = json.dumps(page | {"searchFilter": SHOWN[id_]})
        deflated = base64.b64encode(zlib.compress(state.encode())).decode()
        views[f"{TAG}{id_}"] = json.dumps({"name": name, **times, "state": f"deflate;{deflated}"})
    return views


def _page(metrics: Sequence[str], params: Sequence[str], last_step: int) -> dict[str, Any]:
    """Return the state of the page: trials by their first metric."""
    columns = [*(f"metrics.`{key}`" for key in metrics), *(f"params.`{key}`" for key in params)]
    columns += ["tags.`reason`", "attributes.`Duration`"]
    return {
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {key: COLUMN_PX + LETTER_PX * len(key.split("`")[1]) for key in columns},
        "compareRunCharts": list(_charts(metrics, params, last_step)),
        "compareRunSections": [
            {"uuid": OUTPUTS, "name": "Outputs", "display": True, "columns": 1, "cardHeight": OUTPUTS_PX},
            {"uuid": STUDY, "name": "Losses and parameters", "display": True, "columns": 2},
            {"uuid": OTHERS, "name": "Model metrics", "display": False},  # MLflow adds charts of all others
        ],
        "isAccordionReordered": True,  # the sections keep this order
    }


def _charts(metrics: Sequence[str], params: Sequence[str], last_step: int) -> Iterator[dict[str, Any]]:
    """Yield an image grid, the loss on a logarithmic axis, and parallel coordinates."""
    common = {"deleted": False, "isGenerated": False}
    yield common | {
        "uuid": "nca-images",
        "metricSectionId": OUTPUTS,
        "type": "IMAGE",
        "imageKeys": [IMAGE_KEY],
        "step": last_step,
        "showRunParams": False,  # dozens of lines that push the picture out of sight
    }
    yield common | {
        "uuid": "nca-loss",
        "metricSectionId": STUDY,
        "type": "LINE",
        "metricKey": "loss",
        "selectedMetricKeys": ["loss"],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "log",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }
    yield common | {
        "uuid": "nca-parallel",
        "metricSectionId": STUDY,
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }
