"""The command line of ``scripts/report.py``."""

import argparse
import sys
from collections.abc import Sequence

from experiments import options, records, report
from experiments.errors import ExperimentError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of one or more comparisons.

    Args:
        arguments: of the command line by default.

    Returns:
        0, or 2 for an error that the caller can set right.
    """
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write report.html, report.md and figures/ from the records of comparisons.",
    )
    options.add_record_folders(parser)
    parser.add_argument("--out", type=options.folder, help="default: the first folder")
    parser.add_argument("--reference", help="submission that ratios are to")
    parser.add_argument("--title", default="Time to target")
    parser.add_argument(
        "--collect",
        action="store_true",
        help="also write all records into OUT/records.jsonl.gz, which this command reads back",
    )
    chosen = parser.parse_args(arguments)
    out = chosen.out or chosen.folders[0]
    try:
        found = records.load_all(*chosen.folders)
        print(report.write(found, out, reference=chosen.reference, title=chosen.title))
        if chosen.collect:
            records.collect(found, out)
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
