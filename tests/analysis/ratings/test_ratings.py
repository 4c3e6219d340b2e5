"""Ratings are stored with the study, exchanged as tables, and given blind, in a different order per rater."""

from __future__ import annotations

import functools
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from analysis.rate import MIN_GAP, Queue, RequestHandler, make_app, make_rating_server
from analysis.ratings.__main__ import main
from analysis.ratings.ratings import Rating, Ratings, now
from analysis.runs import load
from analysis.trial_pictures import read_target
from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths, read_record_paths
from tests.analysis.builders import STUDY, make_study
from tests.analysis.mistakes import expect_refusal
from tests.refused_writes import refuse_writes

PORT = 8090
OWN = {"Host": f"127.0.0.1:{PORT}", "Origin": f"http://127.0.0.1:{PORT}"}
N_COMPLETE = 12
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study of twelve complete trials and a failed one, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    make_study(folder, N_COMPLETE + 1)
    return folder


@pytest.fixture
def paths(made: Path, tmp_path: Path) -> RecordPaths:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return read_record_paths({"runs_dir": str(tmp_path)})


@pytest.fixture
def ratings(paths: RecordPaths) -> Ratings:
    return Ratings(paths, STUDY)


@pytest.fixture
def client(paths: RecordPaths, ratings: Ratings) -> Iterator[FlaskClient]:
    target = read_target(paths, STUDY)
    assert target is not None
    with make_app(ratings, target).test_client() as client:
        yield client


def ask(
    client: FlaskClient, path: str, rater: str = "ada", code: int = 200, **body: object
) -> dict[str, object]:
    answer = client.post(path, json={"rater": rater, **body}, headers=OWN)
    assert answer.status_code == code, answer.text
    return dict(json.loads(answer.text))


def rate_everything(rater: str, n_trials: int) -> list[Rating]:
    """Return the ratings of a rater who rates everything with 3."""
    given: list[Rating] = []
    while True:
        queue = Queue(STUDY, rater, range(n_trials), given)
        shown = queue.next()
        assert (shown is None) == (queue.n_left == 0)
        if shown is None:
            return given
        trial, repeat = shown
        given.append(Rating(trial, rater, repeat, 3, now()))


@pytest.mark.parametrize("n_trials", [0, 1, 4, 5, 12, 60])
def test_everything_is_shown_once_and_a_tenth_twice(n_trials: int) -> None:
    given = rate_everything("ada", n_trials)
    first = [r.trial for r in given if r.repeat == 0]
    second = [r.trial for r in given if r.repeat == 1]
    assert sorted(first) == list(range(n_trials))
    assert len(second) == len(set(second)) == round(n_trials / 10)
    shown = [r.trial for r in given]
    for trial in second:
        at, repeated_at = (i for i, number in enumerate(shown) if number == trial)
        assert repeated_at - at > min(MIN_GAP, n_trials // 3)


def test_the_order_is_each_raters_own_and_stays() -> None:
    ada, bob = ([r.trial for r in rate_everything(name, 30)] for name in ("ada", "bob"))
    assert ada == [r.trial for r in rate_everything("ada", 30)]
    assert ada != bob
    assert ada[:30] != sorted(ada[:30])


def test_trials_that_end_later_are_shown_too() -> None:
    given = rate_everything("ada", 10)
    queue = Queue(STUDY, "ada", range(12), given)
    assert queue.n_left == 2
    assert queue.next() in {(10, 0), (11, 0)}


def test_ratings_are_stored_with_the_study_and_in_its_table(ratings: Ratings, tmp_path: Path) -> None:
    ratings.add(Rating(3, "ada", 0, 4, now()))
    ratings.add(Rating(3, "ada", 1, 5, now()))
    ratings.add(Rating(3, "bob", 0, 1, now()))
    ratings.add(Rating(4, "bob", 0, 2, now()))
    table = load(STUDY, runs_dir=tmp_path).set_index("trial")
    assert table["rating"].dropna().to_dict() == {3: (4.5 + 1) / 2, 4: 2}
    ratings.remove(Rating(4, "bob", 0, 2, ""))
    assert load(STUDY, runs_dir=tmp_path)["rating"].count() == 1


def test_an_exported_table_of_ratings_can_be_imported(
    paths: RecordPaths, ratings: Ratings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for trial in range(4):
        ratings.add(Rating(trial, "ada of Ö", 0, trial + 0.5, now()))
    ratings.add(Rating(0, "ada of Ö", 1, 2.5, now()))
    out, argv = tmp_path / "r.csv", [f"study={STUDY}", f"runs_dir={tmp_path}"]
    main([*argv, f"export={out}"])
    before = ratings.all()
    assert out.read_text().splitlines()[0] == "study,trial,rater,repeat,rating,at"
    for rating in before:
        ratings.remove(rating)
    assert ratings.all() == []
    for _ in range(2):  # the second time nothing changes
        main([*argv, f"import={out}"])
        assert ratings.all() == before
    message = capsys.readouterr().out
    assert f"4 of {N_COMPLETE} complete trials are rated" in message
    assert "ada of Ö: 4 rated, mean 2.1\nRater 'ada of Ö' re-rated 1 output: mean difference 2." in message


def test_a_study_imports_only_its_own_rows(
    ratings: Ratings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratings.add(Rating(1, "ada", 0, 2, now()))
    table, argv = tmp_path / "r.csv", [f"study={STUDY}", f"runs_dir={tmp_path}"]
    lines = [f"{STUDY},1,5,ada", f"{STUDY},2,4,ada", "petal,2,0,ada"]
    table.write_text("\n".join(["study,trial,rating,rater", *lines]))
    main([*argv, f"import={table}"])
    assert {(r.trial, r.rating) for r in ratings.all()} == {(1, 5), (2, 4)}
    assert f"{table}: 2 ratings, 1 in place of others" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("study,trial,rating\npetal,1,3\nfern,1,3", f"has ratings of fern, petal, none of {STUDY}"),
        ("trial,note\n1,x", "has no column rating"),
        (f"trial,rating\n{'9' * 5000},3", "line 2: trial=999"),
        (f"trial,rating\n1,{'9' * 5000}", "line 2: rating=999"),
        (f"trial,rating\n1,3{' ' * 200_000}", "cannot be read (field larger than field limit"),
        ("trial,rating\n1,3\n99,3", "line 3: trial=99: no complete trial of the study has that number"),
        ("trial,rating\n12,3", "line 2: trial=12: no complete trial"),
        ("trial,rating\n1,3\n1,6", "line 3: rating=6: must be a number from 0 to 5"),
        ("trial,rating\n1,nan", "line 2: rating=nan: must be a number"),
        ("trial,rating\n1", "line 2: rating=None: must be a number"),
        ("trial,rating,repeat\n1,3,2", "line 2: repeat=2: must be 0 or 1"),
        ("trial,rating,rater\n1,3,<b>", "line 2: rater=<b>: must be 1 to 40 letters"),
        ("trial,rating,at\n1,3,yesterday", "line 2: at=yesterday: must be a time in ISO 8601"),
        (None, "cannot be read"),
    ],
)
def test_a_table_with_a_mistake_imports_nothing(
    ratings: Ratings, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str | None, message: str
) -> None:
    table = tmp_path / "r.csv"
    if lines is not None:
        table.write_text(lines)
    expect_refusal(main, [f"study={STUDY}", f"import={table}", f"runs_dir={tmp_path}"], message, capsys)
    assert ratings.all() == []


def test_a_read_only_disk_is_one_line(
    client: FlaskClient, ratings: Ratings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, argv = tmp_path / "r.csv", [f"study={STUDY}", f"runs_dir={tmp_path}"]
    table.write_text("trial,rating\n1,3")
    token = ask(client, "/next")["token"]
    message = f"sweep.storage=sqlite:///{tmp_path}/optuna.db: attempt to write a readonly database"
    with refuse_writes():
        expect_refusal(main, [*argv, f"import={table}"], message, capsys)
        answer = ask(client, "/rate", code=400, token=token, rating=3)
        main(argv)  # only reads
    assert answer == {"error": message}
    assert ratings.all() == []
    ask(client, "/rate", token=token, rating=3)


def test_a_table_without_an_end_imports_nothing(
    ratings: Ratings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "import=/dev/zero: cannot be read (larger than 16 MB)"
    expect_refusal(main, [f"study={STUDY}", "import=/dev/zero", f"runs_dir={tmp_path}"], message, capsys)
    assert ratings.all() == []


def test_the_page_shows_only_target_and_output(client: FlaskClient) -> None:
    shown = ask(client, "/next")
    assert shown.keys() == {"left", "done", "undo", "token", "target", "output"}
    assert (shown["left"], shown["done"], shown["undo"]) == (N_COMPLETE + 1, 0, False)
    page = client.get("/", headers=OWN)
    assert STUDY not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_the_end_shows_the_next_command(client: FlaskClient, ratings: Ratings) -> None:
    for trial in ratings.folders():
        ratings.add(Rating(trial, "ada", 0, 3.0, now()))
    shown = ask(client, "/next")
    while "token" in shown:
        assert "command" not in shown
        shown = ask(client, "/rate", token=shown["token"], rating=3)
    assert str(shown["command"]).startswith(f"python -m analysis.report study={STUDY} runs_dir=")


def test_a_rating_is_stored_and_can_be_undone(client: FlaskClient, ratings: Ratings) -> None:
    first = ask(client, "/next")
    second = ask(client, "/rate", token=first["token"], rating=4)
    assert second["output"] != first["output"]
    assert [r.rating for r in ratings.all()] == [4]
    undone = ask(client, "/undo")
    assert undone["output"] == first["output"]
    assert ratings.all() == []
    ask(client, "/undo", code=409)
    ask(client, "/rate", token=undone["token"], rating=1)
    assert [(r.rater, r.rating) for r in ratings.all()] == [("ada", 1)]


def test_a_rating_is_stored_if_mlflow_fails(
    client: FlaskClient, ratings: Ratings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("tracking.uri=x: cannot be written")

    monkeypatch.setattr(Ratings, "tag_runs", fail)
    first = ask(client, "/next")
    second = ask(client, "/rate", token=first["token"], rating=4)
    assert second["done"] == 1
    assert [r.rating for r in ratings.all()] == [4]
    assert "cannot be written; run analysis.ratings to write the tags" in capsys.readouterr().err


def test_two_raters_do_not_disturb_each_other(client: FlaskClient, ratings: Ratings) -> None:
    ada, bob = ask(client, "/next"), ask(client, "/next", "bob")
    ask(client, "/rate", "bob", token=bob["token"], rating=2)
    ask(client, "/rate", "ada", token=ada["token"], rating=5)
    assert {(r.rater, r.rating) for r in ratings.all()} == {("bob", 2), ("ada", 5)}


@pytest.mark.parametrize("rating", [6, -1, 10**1800, 2.5, True, "3", None])
def test_an_invalid_rating_is_refused(client: FlaskClient, ratings: Ratings, rating: object) -> None:
    token = ask(client, "/next")["token"]
    assert "whole number from 0 to 5" in str(
        ask(client, "/rate", code=400, token=token, rating=rating)["error"]
    )
    assert ratings.all() == []


def test_a_rating_of_an_output_no_longer_shown_is_refused(client: FlaskClient, ratings: Ratings) -> None:
    token = ask(client, "/next")["token"]
    ask(client, "/next")  # another tab
    assert "reload the page" in str(ask(client, "/rate", code=409, token=token, rating=3)["error"])
    assert ratings.all() == []


@pytest.mark.parametrize("rater", ["", "<script>", "a" * 41])
def test_an_invalid_name_is_refused(client: FlaskClient, rater: str) -> None:
    assert "rater=" in str(ask(client, "/next", rater, code=400)["error"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": f"127.0.0.1:{PORT}"},
        {"Host": f"127.0.0.1:{PORT}", "Origin": "http://evil.example"},
        {"Host": f"127.0.0.1:{PORT}", "Origin": "null"},
        {"Host": f"127.0.0.1:{PORT}", "Origin": "http://127.0.0.1:9999"},
        {"Host": f"evil.example:{PORT}", "Origin": f"http://evil.example:{PORT}"},
    ],
)
def test_other_origins_and_hosts_are_refused(
    client: FlaskClient, ratings: Ratings, headers: dict[str, str]
) -> None:
    token = ask(client, "/next")["token"]
    for path, body in (("/next", {}), ("/rate", {"token": token, "rating": 3}), ("/undo", {})):
        assert client.post(path, json={"rater": "ada", **body}, headers=headers).status_code == 403
    assert ratings.all() == []


def test_another_host_does_not_even_see_the_page(client: FlaskClient) -> None:
    assert client.get("/", headers={"Host": f"evil.example:{PORT}"}).status_code == 403
    assert client.get("/", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:9000", "localhost"])
def test_a_port_that_ssh_forwards_is_served(client: FlaskClient, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert client.post("/next", json={"rater": "ada"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" * 1500, 400),
        (b'{"rater":' * 150 + b"1" + b"}" * 150, 400),
        (b"[]", 400),
        (b"null", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"rater": "\\ud800"}', 400),
        (b'{"rater": ["ada"]}', 400),
        (b'{"rater": "' + b"a" * 5000 + b'"}', 413),
        (b"[" * 100_000, 413),
    ],
)
def test_a_body_that_is_no_rating_is_refused(
    client: FlaskClient, ratings: Ratings, body: bytes, code: int
) -> None:
    headers = OWN | {"Content-Type": "application/json"}
    for path in ("/next", "/rate", "/undo"):
        answer = client.post(path, data=body, headers=headers)
        assert answer.status_code == code, (path, answer.text)
        assert json.loads(answer.text)["error"]
    assert ratings.all() == []


@pytest.fixture
def server(paths: RecordPaths, ratings: Ratings) -> Iterator[int]:
    """Return the port of a real server of the page."""
    target = read_target(paths, STUDY)
    assert target is not None
    server = make_rating_server(0, make_app(ratings, target))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.port
    server.shutdown()
    thread.join()


def post(port: int, path: str, **body: object) -> tuple[int, dict[str, object]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def test_idle_connections_delay_nobody_and_are_closed(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_connection(("127.0.0.1", server), timeout=TIMEOUT_S)
    silent.sendall(b"POST /next HTTP/1.1\r\nContent-Length: 100\r\n")  # and no more
    assert post(server, "/next", rater="ada")[0] == 200
    monkeypatch.setattr(RequestHandler, "timeout", 0.1)
    with socket.create_connection(("127.0.0.1", server), timeout=TIMEOUT_S) as other:
        assert other.recv(1) == b""
    silent.close()


def test_a_body_without_a_length_is_bounded(server: int) -> None:
    chunk = b"1000\r\n" + b"[" * 0x1000 + b"\r\n"
    head = (
        f"POST /next HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\nOrigin: http://127.0.0.1:{server}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server), timeout=TIMEOUT_S) as sender:
        sender.sendall(head.encode() + chunk)  # its end never comes
        assert sender.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_rating_that_is_sent_twice_at_once_is_stored_once(server: int, ratings: Ratings) -> None:
    raters = [f"rater {number}" for number in range(8)]
    with ThreadPoolExecutor(16) as pool:
        shown = list(pool.map(lambda rater: post(server, "/next", rater=rater)[1], raters))
        rate = functools.partial(post, server, "/rate", rating=3)
        sent = [
            pool.submit(rate, rater=rater, token=each["token"])
            for rater, each in zip(raters, shown, strict=True)
            for _ in range(2)
        ]
    assert sorted(each.result()[0] for each in sent) == [200] * 8 + [409] * 8
    assert sorted(rating.rater for rating in ratings.all()) == raters
