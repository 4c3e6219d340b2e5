"""`python -m analysis.export study=S`: trials of studies as a table, or as a folder for a report.

The folder has the table, curves, ratings, search spaces and a sheet of outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis import WEIGHTS, WEIGHTS_OPTION
from nca.cli.errors import exit_on_error
from nca.cli.options import Command, atomic_output, read_out_path
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

COMMAND = Command(
    "analysis.export",
    "Write the trials of studies as a table, or as a folder that analysis.report reads.",
    {
        "study": "name of the study, or names as A,B",
        **WEIGHTS_OPTION,
        "out": "FILE.csv, FILE.parquet or a folder to write; default STUDY.csv",
        **RECORD_OPTIONS,
    },
    required=["study"],
)
KINDS = (".csv", ".parquet", "")  # "": a folder


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and print its name; exit code 2 on bad input."""
    options = COMMAND.read(arguments).options
    names = options["study"].split(",")
    out = read_out_path(options, "out", f"{names[0].replace('/', '-')}.csv", KINDS)
    from analysis.export_folder import write_exported
    from analysis.measures import measure_outputs
    from analysis.runs import join_with_provenance, read_study

    paths = read_record_paths(options)
    studies = [measure_outputs(read_study(paths, name), options.get(WEIGHTS)) for name in names]
    if not out.suffix:
        with atomic_output(out) as partial:
            n_trials = write_exported(studies, paths, partial)
        print(f"{out}: {n_trials} trials; python -m analysis.report exported={out}")
        return
    table = join_with_provenance(studies, paths)
    with atomic_output(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
    print(f"{out}: {len(table)} trials, {len(table.columns)} columns")


if __name__ == "__main__":
    main()
