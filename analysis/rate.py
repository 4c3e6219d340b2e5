"""`python -m analysis.rate study=S`: a page on loopback to rate outputs by eye, blind to everything else.

It shows target and output only, in an order drawn for each rater; one output in ten comes a second time, to
measure how well a rater agrees with themself. Every rating is kept as it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from PIL import Image
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from analysis.ratings.ratings import MAX_RATING, Rating, Ratings, check_rater, now
from analysis.trial_pictures import data_url, read_output, read_target
from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from nca.serve import LOOPBACK, free_port
from sweeps import SweepError

__all__ = ["Queue", "main", "make_app"]

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
NEW_PER_SECOND_LOOK = 10
APART = 5  # outputs at least between two looks at one, where there are as many
POLICY = (
    "default-src 'none'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


@dataclass(frozen=True)
class Queue:
    """What one rater looks at, in which order; follows from what was rated, so it goes on at any time.

    Args:
        study: Its name.
        rater: The person's name.
        trials: Numbers of what can be rated.
        given: The person's ratings, the oldest first.
    """

    study: str
    rater: str
    trials: Sequence[int]
    given: Sequence[Rating]

    @property
    def n_second_looks(self) -> int:
        """How many outputs come a second time, in all."""
        return round(len(self.trials) / NEW_PER_SECOND_LOOK)

    @property
    def n_left(self) -> int:
        """How many looks are left."""
        first, second = self._looked()
        return len(set(self.trials) - first) + max(0, self.n_second_looks - len(second))

    def next(self) -> tuple[int, int] | None:
        """Return trial and look that come next, None at the end."""
        first, second = self._looked()
        new = sorted(set(self.trials) - first, key=lambda trial: self._rank(trial, 0))
        recent = [rating.trial for rating in self.given[-APART:]]
        again = [t for t in set(self.trials) & first - second if t not in recent or not new]
        due = min(self.n_second_looks, len(first) // NEW_PER_SECOND_LOOK if new else self.n_second_looks)
        if again and len(second) < due:
            # Those just seen come last.
            order = sorted(again, key=lambda trial: (trial in recent[-1:], self._rank(trial, 1)))
            return order[0], 1
        return (new[0], 0) if new else None

    def _looked(self) -> tuple[set[int], set[int]]:
        there = [rating for rating in self.given if rating.trial in set(self.trials)]
        return {r.trial for r in there}, {r.trial for r in there if r.look > 0}

    def _rank(self, trial: int, look: int) -> str:
        return hashlib.sha256(f"{self.study} {self.rater} {trial} {look}".encode()).hexdigest()


@dataclass
class _Shown:
    """What a rater was last shown; a rating that comes for anything else is refused."""

    look: tuple[int, int] | None = None
    token: str = ""


@dataclass
class _Page:
    """What the page asks for.

    Args:
        ratings: Of the study.
        target: Its target picture.
        hosts: Under which the page may be asked for.
        rater: Suggested to the page.
    """

    ratings: Ratings
    target: Image.Image
    hosts: Collection[str]
    rater: str
    _shown: dict[str, _Shown] = field(default_factory=dict)

    def refuse_strangers(self) -> None:
        if request.host not in self.hosts:
            abort(403, f"host {request.host}: only {' and '.join(sorted(self.hosts))} are served")
        if request.method == "POST" and request.headers.get("Origin") != f"http://{request.host}":
            abort(403, "only this page itself may send ratings")

    def page(self) -> Response:
        html = TEMPLATE.read_text(encoding="utf-8").replace("__RATER__", self.rater)
        return Response(html, mimetype="text/html")

    def look(self) -> Response:
        return self._show(self._read_rater())

    def rate(self) -> Response:
        name, rating = self._read_rater(), request.get_json().get("rating")
        if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= MAX_RATING:
            abort(400, f"rating={rating}: must be a whole number from 0 to {MAX_RATING}")
        shown = self._shown.get(name, _Shown())
        if shown.look is None or request.get_json().get("token") != shown.token:
            abort(409, "something else is shown by now: load the page anew")
        trial, look = shown.look
        self.ratings.add(Rating(trial, name, look, rating, now()))
        self._tag(trial)
        return self._show(name)

    def undo(self) -> Response:
        name = self._read_rater()
        given = self._given_by(name)
        if not given:
            abort(409, "nothing to take back")
        last = given[-1]
        self.ratings.remove(last)
        self._tag(last.trial)
        return self._show(name, (last.trial, last.look))

    def _tag(self, trial: int) -> None:
        """Copy a trial's ratings to its run; the rating is kept also where MLflow cannot take them."""
        try:
            self.ratings.tag_runs([trial])
        except (ConfigError, OSError) as error:
            print(f"{error}; analysis.ratings will bring the tags", file=sys.stderr, flush=True)

    def _read_rater(self) -> str:
        body = request.get_json()
        return check_rater(str(body.get("rater", "")).strip() if isinstance(body, dict) else "")

    def _given_by(self, name: str) -> list[Rating]:
        return [rating for rating in self.ratings.all() if rating.rater == name]

    def _show(self, name: str, look: tuple[int, int] | None = None) -> Response:
        folders, given = self.ratings.folders(), self._given_by(name)
        queue = Queue(self.ratings.study, name, sorted(folders), given)
        shown = self._shown[name] = _Shown(look or queue.next(), secrets.token_hex(8))
        body: dict[str, Any] = {"left": queue.n_left, "done": len(given), "undo": bool(given)}
        if shown.look is not None:
            output = read_output(folders[shown.look[0]])
            if output is None:
                raise ConfigError(
                    f"{folders[shown.look[0]] / 'output.png'}: cannot be read; load the page anew"
                )
            body |= {
                "token": shown.token,
                "target": data_url(self.target),
                "output": data_url(output),
            }
        return jsonify(body)


def make_app(ratings: Ratings, target: Image.Image, port: int, rater: str = "") -> Flask:
    """Return the page's server.

    Args:
        ratings: Of the study.
        target: Its target picture.
        port: Where it is served on loopback; requests to any other host or port are refused, and ratings
            that another page sends.
        rater: Suggested to the page.
    """
    page = _Page(ratings, target, {f"{name}:{port}" for name in (LOOPBACK, "localhost")}, rater)
    app = Flask("rate", static_folder=None)
    app.before_request(page.refuse_strangers)
    app.after_request(_protect)
    for kind in (HTTPException, ConfigError, SweepError, OSError):
        app.register_error_handler(kind, _say)
    app.add_url_rule("/", view_func=page.page)
    for name, view in {"look": page.look, "rate": page.rate, "undo": page.undo}.items():
        app.add_url_rule(f"/{name}", view_func=view, methods=["POST"])
    return app


def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _say(error: Exception) -> tuple[Response, int]:
    if isinstance(error, HTTPException):
        return jsonify(error=error.description), error.code or 500
    return jsonify(error=str(error)), 400


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of each request."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until ctrl-C; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(SweepError, OSError):
        options = COMMAND.read(arguments).options
        rater = check_rater(options["rater"]) if "rater" in options else ""
        port = free_port(options.get("port"), PORT)
        paths = read_record_paths(options)
        ratings = Ratings(paths, options["study"])
        target = read_target(paths, options["study"])
        if target is None or not ratings.folders():
            raise ConfigError(f"study={options['study']}: no trial is complete yet; there is nothing to rate")
        paths.open_tracking()  # loads MLflow before the first rating waits for it
    server = make_server(LOOPBACK, port, make_app(ratings, target, port, rater), request_handler=_Quiet)
    with contextlib.suppress(KeyboardInterrupt):  # werkzeug swallows it too, while it serves
        said = "ctrl-C ends; every rating is kept as it is given"
        print(f"rate: http://{LOOPBACK}:{port}/ ({said})", flush=True)
        server.serve_forever()
    print(f"over: {paths.command('analysis.ratings', 'study=' + options['study'])} sums up")


if __name__ == "__main__":
    main()
