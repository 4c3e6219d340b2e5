"""`python -m analysis.rate study=S`: a page on loopback to rate outputs by eye.

It shows only target and output, in a random order for each rater, and one output in ten twice, to measure how
well a rater's repeats agree. Each rating is saved at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from PIL import Image
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from analysis.ratings.ratings import MAX_RATING, Rating, Ratings, check_rater, now
from analysis.trial_pictures import read_output, read_target
from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command
from nca.outputs.html_page import data_url
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from nca.serve import LOOPBACK, free_port
from sweeps import SweepError

PORT = 8090
COMMAND = Command(
    "analysis.rate",
    "Serve the page on which the outputs of a study are rated blind, until ctrl-C.",
    {
        "study": "name of the study",
        "rater": "who rates; default: the page asks",
        "port": f"port to listen on; default: the first free one from {PORT}",
        **RECORD_OPTIONS,
    },
    required=["study"],
)
TEMPLATE = Path(__file__).with_name("assets") / "rate.html"
OUTPUTS_PER_REPEAT = 10
MIN_GAP = 5  # ratings between the first and the second of an output, if there are as many outputs
LOCAL_HOST = re.compile(rf"({re.escape(LOOPBACK)}|localhost)(:\d+)?")  # any port: ssh may forward another
MAX_BODY_BYTES = 2048  # of a request; the longest rating has a third of it
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class RequestHandler(WSGIRequestHandler):
    """Closes connections on which nothing arrives."""

    timeout = 10.0  # seconds


@dataclass(frozen=True)
class Queue:
    """The order in which one rater sees the outputs, derived from the ratings so far.

    Args:
        study: Name of the study.
        rater: Name of the person.
        trials: Numbers of the trials that can be rated.
        given: Ratings by this person, the oldest first.
    """

    study: str
    rater: str
    trials: Collection[int]
    given: Sequence[Rating]

    @property
    def n_left(self) -> int:
        """Number of ratings left, repeats included."""
        rated, repeated = self._rated()
        return len(set(self.trials) - rated) + max(0, self._n_repeats - len(repeated))

    def next(self) -> tuple[int, int] | None:
        """Return the next trial and 0 for a first rating, 1 for a repeat; None at the end."""
        rated, repeated = self._rated()
        new = sorted(set(self.trials) - rated, key=lambda trial: self._rank(trial, 0))
        recent = [rating.trial for rating in self.given[-MIN_GAP:]]
        repeatable = [trial for trial in rated - repeated if trial not in recent or not new]
        n_due = min(self._n_repeats, len(rated) // OUTPUTS_PER_REPEAT if new else self._n_repeats)
        if repeatable and len(repeated) < n_due:
            return min(repeatable, key=lambda trial: (trial in recent[-1:], self._rank(trial, 1))), 1
        return (new[0], 0) if new else None

    @property
    def _n_repeats(self) -> int:
        return round(len(self.trials) / OUTPUTS_PER_REPEAT)

    def _rated(self) -> tuple[set[int], set[int]]:
        """Return the trials that were rated, and those that were rated twice."""
        known = [rating for rating in self.given if rating.trial in self.trials]
        return {rating.trial for rating in known}, {rating.trial for rating in known if rating.repeat > 0}

    def _rank(self, trial: int, repeat: int) -> str:
        return hashlib.sha256(f"{self.study} {self.rater} {trial} {repeat}".encode()).hexdigest()


@dataclass
class _Page:
    """The views of the page, which threads call at the same time."""

    ratings: Ratings
    target: Image.Image
    rater: str
    _shown: dict[str, tuple[str, tuple[int, int] | None]] = field(default_factory=dict)  # token and output
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self) -> Response:
        html = TEMPLATE.read_text(encoding="utf-8").replace("__RATER__", self.rater)
        return Response(html, mimetype="text/html")

    def act(self, action: str) -> Response:
        body = _read_body()  # before the lock: a slow sender delays nobody else
        rater = check_rater(str(body.get("rater", "")).strip())
        with self._lock:
            if action == "rate":
                self._rate(rater, body)
            return self._show(rater, self._undo(rater) if action == "undo" else None)

    def _rate(self, rater: str, body: Mapping[str, Any]) -> None:
        rating = body.get("rating")
        if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= MAX_RATING:
            abort(400, f"rating={rating}: must be a whole number from 0 to {MAX_RATING}")
        token, shown = self._shown.get(rater, ("", None))
        if shown is None or body.get("token") != token:
            abort(409, "this output is no longer shown: reload the page")
        trial, repeat = shown
        self.ratings.add(Rating(trial, rater, repeat, rating, now()))
        self._tag(trial)

    def _undo(self, rater: str) -> tuple[int, int]:
        given = self._given_by(rater)
        if not given:
            abort(409, "there is no rating to undo")
        last = given[-1]
        self.ratings.remove(last)
        self._tag(last.trial)
        return last.trial, last.repeat

    def _tag(self, trial: int) -> None:
        """Write a trial's ratings to its MLflow run. A failure does not matter: Optuna has the ratings."""
        try:
            self.ratings.tag_runs([trial])
        except (ConfigError, OSError) as error:
            print(f"{error}; run analysis.ratings to write the tags", file=sys.stderr, flush=True)

    def _given_by(self, rater: str) -> list[Rating]:
        return [rating for rating in self.ratings.all() if rating.rater == rater]

    def _show(self, rater: str, output: tuple[int, int] | None = None) -> Response:
        folders, given = self.ratings.folders(), self._given_by(rater)
        queue = Queue(self.ratings.study, rater, folders, given)
        token, shown = self._shown[rater] = secrets.token_hex(8), output or queue.next()
        body: dict[str, Any] = {"left": queue.n_left, "done": len(given), "undo": bool(given)}
        if shown is not None:
            folder = folders[shown[0]]
            picture = read_output(folder)
            if picture is None:
                raise ConfigError(f"{folder / 'output.png'}: cannot be read; reload the page")
            body |= {"token": token, "target": data_url(self.target), "output": data_url(picture)}
        else:  # with the study's name, which tells what the outputs are
            body["command"] = self.ratings.report_command
        return jsonify(body)


def make_app(ratings: Ratings, target: Image.Image, rater: str = "") -> Flask:
    """Return the Flask application; it refuses other hosts, and ratings that other pages send."""
    page = _Page(ratings, target, rater)
    app = Flask("rate", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.before_request(_check_origin)
    app.after_request(_add_headers)
    for kind in (HTTPException, ConfigError, SweepError, OSError):
        app.register_error_handler(kind, _answer_error)
    app.add_url_rule("/", view_func=page.page)
    app.add_url_rule("/<any(next, rate, undo):action>", view_func=page.act, methods=["POST"])
    return app


def make_rating_server(port: int, app: Flask) -> BaseWSGIServer:
    """Return a server with a thread for each connection, as browsers open some that they do not use."""
    return make_server(LOOPBACK, port, app, threaded=True, request_handler=RequestHandler)


def _check_origin() -> None:
    if not LOCAL_HOST.fullmatch(request.host):
        abort(403, f"host {request.host}: only {LOOPBACK} and localhost are served")
    if request.method == "POST" and request.headers.get("Origin") != f"http://{request.host}":
        abort(403, "only this page itself may send ratings")


def _read_body() -> dict[str, Any]:
    try:
        body = request.get_json()
    except RecursionError:
        body = None
    if not isinstance(body, dict):
        abort(400, "the body must be a JSON object")
    return body


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def _answer_error(error: Exception) -> tuple[Response, int]:
    if isinstance(error, HTTPException):
        return jsonify(error=error.description), error.code or 500
    return jsonify(error=str(error)), 400


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until ctrl-C; exit code 2 on bad input."""  # noqa: DOC501 - it ends the process
    options = COMMAND.read(arguments).options
    rater = check_rater(options["rater"]) if "rater" in options else ""
    port = free_port(options, PORT)
    paths = read_record_paths(options)
    ratings = Ratings(paths, options["study"])
    target = read_target(paths, options["study"])
    if target is None or not ratings.folders():
        raise ConfigError(f"study={options['study']}: has no complete trial to rate yet")
    paths.open_tracking()  # imports MLflow now, not at the first rating
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line per request
    server = make_rating_server(port, make_app(ratings, target, rater))
    with contextlib.suppress(KeyboardInterrupt):  # werkzeug swallows it too, while it serves
        print(f"rating page: http://{LOOPBACK}:{port}/ (Ctrl-C ends; ratings are saved at once)", flush=True)
        server.serve_forever()
    print(f"summary: {paths.command('analysis.ratings', 'study=' + options['study'])}")


if __name__ == "__main__":
    main()
