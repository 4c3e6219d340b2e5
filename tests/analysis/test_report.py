"""The report's numbers are those of the data; a figure with too few trials becomes a sentence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from sklearn.decomposition import PCA

from analysis.export import main as export
from analysis.figures.clusters import fit_umap
from analysis.figures.comparisons import plot_losses_by_texture
from analysis.figures.drawing import FINAL_LOSS, Plot, choose_outcome, figure_text, make_figure
from analysis.figures.examples import list_best, plot_examples
from analysis.measures import measure_outputs
from analysis.ratings.ratings import Rating, Ratings, now
from analysis.report import N_SECTIONS, main, make_sections, write_report
from analysis.runs import StudyTable, join_studies, read_study
from nca.records.paths import RecordPaths
from tests.analysis.builders import make_study
from tests.analysis.mistakes import expect_refusal

N_TRIALS = 30
FIGURES = {
    "losses_by_texture",
    "rating_against_loss",
    "examples",
    "measures",
    "parameters",
    "ratings_by_parameter",
    "importances",
    "interactions",
    "history",
    "clusters",
    "texture_against_texture",
    "curves",
}


@pytest.fixture(scope="module", autouse=True)
def _pca_for_umap() -> Iterator[None]:
    """Draw PCA's plane twice: UMAP compiles its code for many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        plane = lambda points: SimpleNamespace(embedding_=PCA(2).fit_transform(points))  # noqa: E731
        patch.setattr("analysis.figures.clusters.fit_umap", plane)
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RecordPaths:
    """Return two studies of the same configurations on two textures; the first one is rated."""
    runs = tmp_path_factory.mktemp("report")
    paths = make_study(runs, N_TRIALS + 1, name="leaf", texture="roundleaf")
    make_study(runs, N_TRIALS + 1, name="petal", texture="orchid_petal")
    ratings = Ratings(paths, "leaf")
    table = read_study(paths, "leaf").trials.dropna(subset=["final_loss"])
    for row in table.itertuples():
        rating = float(np.clip(round(-1 - 2 * np.log10(row.final_loss)), 0, 5))
        ratings.add(Rating(row.trial, "ada", 0, rating, now()))
    return paths


@pytest.fixture(scope="module")
def tables(paths: RecordPaths) -> list[StudyTable]:
    return [measure_outputs(read_study(paths, name)) for name in ("leaf", "petal")]


@pytest.fixture(scope="module")
def report(tables: list[StudyTable], paths: RecordPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tables, paths, tmp_path_factory.mktemp("out") / "report")


def test_progress_counts_the_sections(tables: list[StudyTable], paths: RecordPaths) -> None:
    assert len(list(make_sections(tables, paths))) == N_SECTIONS


def sentences(report: Path) -> list[str]:
    pattern = r"<figcaption>(.*?)</figcaption>|<p(?: class='\w+')?>(.*?)</p>".replace("'", '"')
    found = re.findall(pattern, report.read_text(), re.DOTALL)
    return ["".join(each) for each in found]


@pytest.mark.slow
def test_a_report_of_an_exported_folder_is_the_same(
    report: Path, paths: RecordPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(["study=leaf,petal", f"out={tmp_path / 'shared'}", f"runs_dir={paths.runs}", "tracking.uri=none"])
    assert capsys.readouterr().out.endswith(f"python -m analysis.report exported={tmp_path / 'shared'}\n")
    main([f"exported={tmp_path / 'shared'}", f"out={tmp_path / 'again'}", f"runs_dir={tmp_path / 'none'}"])
    for name in FIGURES:
        drawn, redrawn = (
            (folder / f"{name}.csv").read_text() for folder in (report.parent, tmp_path / "again")
        )
        assert redrawn == drawn, name
    first, second = (
        [each for each in sentences(page) if not each.startswith("Made ")]
        for page in (report, tmp_path / "again" / "report.html")
    )
    assert second == first
    with (
        Image.open(report.parent / "examples.png") as one,
        Image.open(tmp_path / "again/examples.png") as other,
    ):
        assert one.tobytes() == other.tobytes()
    assert str(paths.runs) not in "".join(file.read_text() for file in (tmp_path / "shared").glob("*.[cj]*"))
    assert not (tmp_path / "none").exists()


def test_names_are_text_in_figures_and_on_the_page(tmp_path: Path) -> None:
    names = ["__DATA__ <h1> & $x", "_`<script>` 'лист' $\\frac$"]
    textures = ["_<img> $\\frac$", "*лист* __TITLE__ $^$"]
    for name, texture in zip(names, textures, strict=True):
        paths = make_study(tmp_path, 4, name=name, texture=texture)
        for trial in range(3):
            Ratings(paths, name).add(Rating(trial, "Zoë 1", 0, trial, now()))
    page = write_report([read_study(paths, name) for name in names], paths, tmp_path / "report").read_text()
    assert "<img>" not in page
    assert "<h1>__DATA__ &lt;h1&gt; &amp; $x and 1 more</h1>" in page
    assert "<code>python -m analysis.suggest 'study=__DATA__ &lt;h1&gt; &amp; $x' enqueue=true</code>" in page
    assert {"history", "rating_against_loss", "examples"} <= {file.stem for file in tmp_path.glob("*/*.png")}
    for text in (names[1], textures[0].replace("_", " "), textures[1].replace("_", " ")):
        figure = make_figure()
        (drawn,) = figure.axes
        drawn.plot([], label=figure_text(text))
        figure.draw_without_rendering()
        assert drawn.legend().get_texts()[0].get_text().replace(r"\$", "$").strip() == text.strip()


def test_a_folder_with_other_contents_is_refused(
    paths: RecordPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = [f"exported={tmp_path / 'x'}"], "was not written by `analysis.export out=FOLDER`"
    expect_refusal(main, argv, f"{argv[0]}: does not exist; python -m analysis.export writes", capsys)
    expect_refusal(main, [f"exported={tmp_path}"], message, capsys)
    export(["study=leaf", f"out={tmp_path / 'x'}", f"runs_dir={paths.runs}", "tracking.uri=none"])
    capsys.readouterr()
    expect_refusal(main, [*argv, "study=petal"], "study=petal: is not among the exported ones: leaf", capsys)
    for name, old, new in (
        ("studies.json", "{", "["),
        ("studies.json", '"columns"', '"others"'),
        ("studies.json", '"distributions": {', '"distributions": {"x": {},'),
        ("ratings.csv", "repeat", "look"),
        ("trials.csv", "began", "begun"),
        ("trials.csv", "leaf,0", "leaf," + "9" * 5000),
    ):
        file = tmp_path / "x" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        expect_refusal(main, argv, message, capsys)
        file.write_text(text)


@pytest.mark.slow
def test_umap_is_the_same_for_the_same_points() -> None:
    points = np.random.default_rng(0).random((30, 3))
    first, second = (fit_umap(points).embedding_ for _ in range(2))
    assert first.shape == (30, 2)
    assert (first == second).all()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def test_every_figure_is_written_with_its_data(report: Path) -> None:
    folder = report.parent
    assert {file.stem for file in folder.glob("*.png")} == FIGURES
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # not empty
        assert (folder / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert not pd.read_csv(folder / f"{name}.csv").empty
    page = report.read_text()
    assert "http" not in re.sub(r'href="[^"]*"', "", page.partition("<body>")[0])
    assert page.count('<div class="wide drawn"><a href=') == len(FIGURES)


def test_the_report_opens_with_the_best_outputs_beside_their_targets(
    report: Path, tables: list[StudyTable]
) -> None:
    """A row of pictures for each texture: the target, then the trials of least distance."""
    opening = report.read_text().partition("<nav>")[0]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", opening)
    assert len(captions) == opening.count("<img ") == 8
    for table, own in zip(tables, (captions[:4], captions[4:]), strict=True):
        assert own[0] == f"{table.texture.replace('_', ' ')}: the target"
        best = table.trials.nsmallest(3, "final_distance")
        expected = [
            f"trial {row.trial} of {table.name}, texture distance {row.final_distance:.2f}: "
            for row in best.itertuples()
        ]
        assert [each.startswith(begin) for each, begin in zip(own[1:], expected, strict=True)] == [True] * 3
    assert "rated " in captions[1]
    assert "rated " not in captions[5]


def test_sections_without_a_figure_stand_at_the_end(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 4, 0)
    page = write_report([read_study(paths, "leaf")], paths, tmp_path / "out").read_text()
    contents, _, rest = page.partition("</nav>")
    assert "Clusters of configurations" not in contents
    figures, _, wanting = rest.partition("What more data would show")
    assert "Clusters of configurations" in wanting
    assert "Clusters of configurations" not in figures
    assert "<h2 id" not in wanting


def test_correlations_are_those_of_the_data(report: Path, tables: list[StudyTable]) -> None:
    rated = tables[0].trials.dropna(subset=["rating", "final_loss"])
    x, y = np.log10(rated["final_loss"]), rated["rating"]
    (text,) = (each for each in sentences(report) if "(Pearson)" in each)
    found = numbers(text.partition("of the final loss is")[2])
    pearson = stats.pearsonr(x, y)
    interval = pearson.confidence_interval()
    assert found[:3] == pytest.approx([pearson.statistic, interval.low, interval.high], abs=0.006)
    assert found[3] == pytest.approx(stats.spearmanr(x, y).statistic, abs=0.006)


def test_the_parameter_that_matters_is_named_and_no_other(report: Path) -> None:
    (text,) = (each for each in sentences(report) if "related to the final loss" in each)
    named = text.partition("related to the final loss:")[2]
    assert "learning rate (-0." in named
    assert "channels" not in named
    assert "update rate" not in named
    report_text = " ".join(sentences(report))
    assert "these are neighborhoods, not clusters." in report_text  # the configurations are random
    assert "which is not significant: with shuffled ranks" in report_text  # no two parameters interact
    table = pd.read_csv(report.parent / "parameters.csv").set_index("parameter")
    assert table.loc["train.learning_rate", "p"] < 0.01
    importances = pd.read_csv(report.parent / "importances.csv").set_index("parameter")
    assert importances["importance"].idxmax() == "train.learning_rate"
    assert 0.3 < importances["importance"].max() < 0.95


def test_a_study_that_searches_nothing_is_listed_with_its_parameters_fixed(
    tables: list[StudyTable], paths: RecordPaths
) -> None:
    fixed = [replace(tables[0], distributions={})]
    assert {tuple(row["params"]) for row in list_best(join_studies(fixed), fixed, paths, "final_loss")} == {
        ("all fixed",)
    }


def test_clusters_are_a_table_and_parallel_coordinates_are_explained(report: Path) -> None:
    page = report.read_text()
    table = page.partition("<th>mean final loss (geometric)</th>")[2].partition("</table>")[0]
    sizes = [int(re.findall("<td>(.*?)</td>", row)[1]) for row in table.split("</tr>")[1:-1]]
    assert len(sizes) >= 2
    assert sum(sizes) == N_TRIALS
    assert "Each line is a configuration, with its values on the axes" in page


def test_an_interval_that_one_configuration_makes_wide_is_explained(tables: list[StudyTable]) -> None:
    explained = "One or two configurations make most of the spread on roundleaf: its interval"
    trials = tables[0].trials
    outlier = trials.assign(final_loss=trials["final_loss"].where(trials["trial"] > 0, 1e9))
    for first, is_vague in ((tables[0], False), (replace(tables[0], trials=outlier), True)):
        trials = join_studies([first, tables[1]])
        plot = plot_losses_by_texture(trials[trials["reason"] == "complete"])
        assert not isinstance(plot, str)
        assert (explained in " ".join(plot.text)) == is_vague


def test_losses_on_two_textures_correlate(report: Path, tables: list[StudyTable]) -> None:
    table = pd.read_csv(report.parent / "texture_against_texture.csv")
    assert set(table["texture"]) == {"orchid_petal"}
    one, other = (t.trials.set_index("trial")["final_loss"].dropna() for t in tables)
    assert table["spearman"].iloc[0] == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-6)
    assert table["spearman"].iloc[0] > 0.8


def test_the_best_trials_are_listed_the_best_first(report: Path, tables: list[StudyTable]) -> None:
    rows = re.findall(r"<tr><td><img class=\"thumb\".*?</tr>", report.read_text(), re.DOTALL)
    assert len(rows) == 10
    everything = pd.concat(table.trials for table in tables)
    best = everything.nsmallest(10, "final_loss")
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
    assert [cell[3] for cell in cells] == [f"{loss:.3g}" for loss in best["final_loss"]]
    assert [cell[4] for cell in cells] == [f"{distance:.3g}" for distance in best["final_distance"]]


@pytest.mark.parametrize(("n_trials", "n_failed"), [(1, 0), (2, 1), (2, 2), (4, 0)])
def test_few_trials_give_sentences(tmp_path: Path, n_trials: int, n_failed: int) -> None:
    paths = make_study(tmp_path, n_trials, n_failed)
    report = write_report([read_study(paths, "leaf")], paths, tmp_path / "out")
    report_text = " ".join(sentences(report))
    assert "experiment=ten_sets" in report_text
    assert "<code>python -m analysis.rate study=leaf</code>" in report_text
    assert "with a larger <code>sweep.n_trials</code>" in report_text
    assert "`" not in report_text
    assert "Needs at least 10 complete trials" in report_text
    drawn = {file.stem for file in (tmp_path / "out").glob("*.png")}
    assert drawn <= {"parameters", "history", "curves"}
    assert ("parameters" in drawn) == (n_trials - n_failed >= 3)


def test_pruned_trials_alone_give_sentences(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6, 0)
    table = read_study(paths, "leaf")
    pruned = table.trials.assign(reason="pruned", final_loss=np.nan)
    report = write_report([replace(table, trials=pruned)], paths, tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == {"curves"}
    assert "6 pruned" in " ".join(sentences(report))


def test_the_same_data_give_the_same_report(
    tables: list[StudyTable], paths: RecordPaths, report: Path
) -> None:
    texts = [
        [each if isinstance(each, str) else list(each.text) for each in section.plots]
        for section in make_sections(tables, paths)
    ]
    report_text = re.sub("</?code>", "`", " ".join(sentences(report))).replace("&gt;", ">")
    report_text = report_text.replace("study=leaf", "study=STUDY")
    for each in texts:
        for text in each:
            assert " ".join([text] if isinstance(text, str) else text) in report_text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give study=NAME or exported=FOLDER; see python -m analysis.report --help"),
        (["study=leef"], "study 'leef': no such study; there are: leaf"),
        (["study=leaf,nothing"], "study 'nothing': no such study"),
        (["study=leaf", "out=/nowhere/x"], "/nowhere is not a folder"),
        (["studi=leaf"], "unknown key 'studi', did you mean 'study'?"),
        (["study=leaf", "by=final_los"], "by=final_los: must be one of final_loss, final_distance, "),
        (["study=leaf", "by=distance_at_1000"], "by=distance_at_1000: not every complete trial has it"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    make_study(tmp_path, 2)
    expect_refusal(main, [*argv, f"runs_dir={tmp_path}"], message, capsys)


@pytest.mark.slow
def test_predictions_are_compared_with_obtained_losses(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 20)
    table = read_study(paths, "leaf")
    trials = table.trials.copy()
    losses = np.log10(trials["final_loss"])
    chosen = trials.index[:8]
    trials.loc[chosen, "suggested_by"] = ["pca"] * 4 + ["model"] * 4
    trials.loc[chosen, "predicted_log10_final_loss"] = losses[chosen] + [0, 0, 0, 9, 0, 0, 0, 0]
    trials.loc[chosen, "predicted_log10_final_loss_sd"] = 0.1
    report = write_report([replace(table, trials=trials)], paths, tmp_path / "out")
    report_text = " ".join(sentences(report))
    assert "pca: 4 configurations" in report_text
    assert "75% within the predicted 95% range" in report_text
    assert re.search(r"model: 4 configurations, median final loss \S+; 100% within", report_text)
    assert "Not suggested: 11 configurations" in report_text
    assert (tmp_path / "out" / "suggestions.png").exists()
    assert "predicted ratings" not in report_text
    trials.loc[chosen, ["rating", "predicted_rating"]] = [4.0, 4.4]
    report = write_report([replace(table, trials=trials)], paths, tmp_path / "rated")
    report_text = " ".join(sentences(report))
    assert "mean rating 4 of 4, predicted 4.4" in report_text
    assert "Diamonds are the means of the predicted ratings." in report_text
    unpredicted = trials.drop(columns=["predicted_log10_final_loss", "predicted_log10_final_loss_sd"])
    report = write_report([replace(table, trials=unpredicted)], paths, tmp_path / "unpredicted")
    report_text = " ".join(sentences(report))
    assert re.search(r"model: 4 configurations, median final loss \S+, mean rating 4 of 4", report_text)
    assert "within the predicted" not in report_text


@pytest.mark.slow
def test_agreement_of_raters_is_reported(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 8)
    ratings = Ratings(paths, "leaf")
    for trial in range(6):
        ratings.add(Rating(trial, "ada", 0, trial % 5, now()))
        ratings.add(Rating(trial, "bob", 0, min(5, trial % 5 + 1), now()))
    for trial in range(5):
        ratings.add(Rating(trial, "ada", 1, min(5, trial % 5 + trial // 4), now()))
    ratings.add(Rating(1, "bob", 1, 0, now()))
    report_text = " ".join(sentences(write_report([read_study(paths, "leaf")], paths, tmp_path / "out")))
    assert (
        "Rater 'ada' re-rated 5 outputs: mean difference 0.2 (1.8 between different outputs)." in report_text
    )
    assert "Rater 'bob' re-rated 1 output: mean difference 2." in report_text
    assert "Raters 'ada' and 'bob' both rated 6 outputs: mean difference " in report_text


def with_changes(
    table: StudyTable, name: str, trials: pd.DataFrame | None = None, **fixed: object
) -> StudyTable:
    changed = table.trials if trials is None else trials
    return replace(table, name=name, trials=changed, fixed={**table.fixed, **fixed})


@pytest.mark.slow
def test_studies_with_other_fixed_values_are_not_compared(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path
) -> None:
    leaf, petal = tables
    larger = with_changes(petal, "larger", **{"train.size": 256})
    report = write_report([leaf, larger], paths, tmp_path / "terms")
    report_text = " ".join(sentences(report))
    assert "Not compared with leaf because of other fixed values: larger." in report_text
    assert "Fewer than 5 configurations were trained on more than one texture." in report_text
    assert not (tmp_path / "terms" / "texture_against_texture.png").exists()


def test_each_image_file_is_a_texture(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"texture.name": "image", "texture.source": "file"}
    studies = [
        with_changes(table, f"study {n}", **image, **{"texture.path": path, "texture.hash": str(n) * 64})
        for n, (table, path) in enumerate(zip(tables, ("/a/bark.png", "/b/bark.png"), strict=True), 1)
    ]
    first = lambda *_: itertools.islice(make_sections(*_), 1)  # noqa: E731 - the others take seconds
    monkeypatch.setattr("analysis.report.make_sections", first)
    report = write_report(studies, paths, tmp_path / "out")
    data = pd.read_csv(report.parent / "losses_by_texture.csv")
    assert set(data["texture"]) == {"bark 111111", "bark 222222"}
    facts = re.findall(r'<p class="facts">(.*?),', report.read_text())
    assert facts == ["study 1: bark 111111 (file)", "study 2: bark 222222 (file)"]


def test_each_preset_is_a_texture(tables: list[StudyTable], paths: RecordPaths) -> None:
    presets = [
        with_changes(table, preset, **{"texture.name": "gray_scott", "texture.preset": preset})
        for table, preset in zip(tables, ("spots", "coral"), strict=True)
    ]
    first = next(make_sections(presets, paths)).plots[0]
    assert not isinstance(first, str)
    assert set(first.data["texture"]) == {"gray_scott spots", "gray_scott coral"}


@pytest.mark.slow
def test_studies_with_different_spaces_are_reported_together(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path
) -> None:
    """One study fixes a parameter, to a value that some of the other's trials have as a whole number."""
    leaf, petal = tables
    fixed = petal.trials.drop(columns="model.channels")
    narrow = replace(
        with_changes(petal, "narrow", fixed, **{"model.channels": 9.0}),
        distributions={key: each for key, each in petal.distributions.items() if key != "model.channels"},
    )
    report = write_report([leaf, narrow], paths, tmp_path / "spaces")
    report_text = " ".join(sentences(report))
    assert "30 complete trials" in report_text
    assert "Not compared" not in report_text
    complete = leaf.trials.dropna(subset=["final_loss"])
    nines = (complete["model.channels"] == 9).sum()
    assert nines >= 5
    assert f"{nines} configurations on 2 textures" in report_text


@pytest.mark.slow
def test_a_study_is_shown_by_what_it_minimizes(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path
) -> None:
    by_distance = [
        replace(
            table,
            objectives=["final_distance", "final_loss"],
            trials=table.trials.assign(final_distance=0.5 - 0.1 * np.log10(table.trials["final_loss"])),
        )
        for table in tables
    ]
    report = write_report(by_distance, paths, tmp_path / "report")
    page = report.read_text()
    for title in (
        "Texture distance by texture",
        "Rating against texture distance",
        "Each parameter against texture distance: leaf",
    ):
        assert title in page
    for name in ("losses_by_texture", "rating_against_loss", "history", "clusters"):
        assert "final_distance" in pd.read_csv(report.parent / f"{name}.csv")
    page = write_report(by_distance, paths, tmp_path / "by", "final_loss_median").read_text()
    assert "Median loss by texture" in page
    least = by_distance[0].trials["final_distance"].min()
    assert f"The smallest texture distance, {least:.3g}, is that of trial" in " ".join(sentences(report))


def test_a_parameter_that_another_rule_lacks_stays_a_number(tables: list[StudyTable]) -> None:
    leaf, petal = tables
    name = "model.channels"
    searched = {key: value for key, value in petal.distributions.items() if key != name}
    other = with_changes(petal, "other", petal.trials.drop(columns=name), **{name: None})
    joined = join_studies([leaf, replace(other, distributions=searched)])
    assert joined[name].dtype == float
    assert joined[name].isna().sum() == len(other.trials)


def test_an_example_of_a_rating_is_the_one_nearest_to_it(tables: list[StudyTable]) -> None:
    given = {0: 0.5, 1: 4.5, 2: 5.0, 3: 3.5, 4: 4.0, 5: 4.0}
    trials = tables[0].trials.assign(rating=tables[0].trials["trial"].map(given))
    plot = plot_examples([replace(tables[0], trials=trials)])
    assert isinstance(plot, Plot)
    shown = dict(zip(plot.data["rating"], plot.data["trial"], strict=True))
    losses = trials.set_index("trial")["final_loss"]
    assert shown == {5: 2, 4: max((4, 5), key=lambda trial: losses[trial]), 1: 0}


@pytest.mark.parametrize("ratings", [[4.0, 2.0], [3.0, 3.0, 3.0]], ids=["few", "all the same"])
def test_parameters_are_shown_against_ratings_that_can_tell(
    tables: list[StudyTable], paths: RecordPaths, ratings: list[float]
) -> None:
    trials = tables[0].trials.assign(rating=tables[0].trials["trial"].map(dict(enumerate(ratings))))
    sections = make_sections([replace(tables[0], trials=trials)], paths)
    plots = [plot for each in sections for plot in each.plots]
    drawn = {plot.name for plot in plots if isinstance(plot, Plot)}
    assert "parameters" in drawn
    assert "ratings_by_parameter" not in drawn
    assert not any("least 3 complete trials" in plot for plot in plots if isinstance(plot, str))


@pytest.mark.slow
def test_a_report_of_one_of_several_exported_studies_is_about_it(paths: RecordPaths, tmp_path: Path) -> None:
    folder = f"exported={tmp_path / 'both'}"
    export(["study=leaf,petal", f"out={tmp_path / 'both'}", f"runs_dir={paths.runs}", "tracking.uri=none"])
    main([folder, "study=petal", f"out={tmp_path / 'petal'}"])
    assert "<h1>petal</h1>" in (tmp_path / "petal" / "report.html").read_text()


def test_a_distance_that_has_no_logarithm_is_not_shown() -> None:
    trials = pd.DataFrame({"final_loss": [1.0, 2.0], "final_distance": [0.1, -0.01]})
    assert choose_outcome("final_distance", trials) is FINAL_LOSS
    assert choose_outcome("final_distance", trials.abs()).column == "final_distance"
    assert choose_outcome("n_parameters", trials) is FINAL_LOSS


@pytest.mark.slow
@pytest.mark.parametrize("losses", ["constant", "constant on one texture"])
def test_equal_losses_give_sentences(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path, losses: str
) -> None:
    leaf, petal = tables
    same = leaf.trials.assign(
        final_loss=leaf.trials["final_loss"].where(leaf.trials["final_loss"].isna(), 1e-3)
    )
    other = petal if losses == "constant on one texture" else with_changes(petal, "petal", same)
    report = write_report([with_changes(leaf, "leaf", same), other], paths, tmp_path / "same")
    report_text = " ".join(sentences(report))
    assert "All trials came to the same, so there is nothing to explain." in report_text
    assert "rank correlation not defined (all the same)" in report_text
    assert ("They do not vary on any texture." in report_text) == (losses == "constant")
    assert "nan" not in report_text


@pytest.mark.slow
def test_a_configuration_with_high_leverage_is_left_out(
    tables: list[StudyTable], paths: RecordPaths, tmp_path: Path
) -> None:
    leaf, petal = tables
    apart = leaf.trials.assign(
        final_loss=leaf.trials["final_loss"] * np.where(leaf.trials["trial"] == 3, 1e6, 1)
    )
    report = write_report([with_changes(leaf, "leaf", apart), petal], paths, tmp_path / "apart")
    assert "whose leverage is above 0.9" in " ".join(sentences(report))
    table = pd.read_csv(tmp_path / "apart" / "texture_against_texture.csv")
    assert (table["r2"] > 0.3).all()
