"""Score a submission of the sample, as the organisers of a challenge would.

    .venv/bin/python data/score_sample.py submission_epoch_10.csv data/sample/solution.csv

Reads a submission (`id,predicted`, category ids best first) and a solution (`id,category_id`).
Prints top-1 and top-5 error; top-5 error is the challenge's score.
"""

import csv
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from common.base.files import UserError, require_file
from common.base.help import HelpFormatter, Parser
from common.base.script import run_script


def main():
    args = parse_args()
    truth = {image_id: row["category_id"] for image_id, row in read(args.solution, "category_id")}
    guesses = {
        image_id: row["predicted"].split() for image_id, row in read(args.submission, "predicted")
    }
    missing = truth.keys() - guesses.keys()
    if missing:
        raise UserError(f"{args.submission}: lacks {len(missing)} ids, e.g. {min(missing)}")
    for k in (1, 5):
        right = sum(truth[image_id] in guesses[image_id][:k] for image_id in truth)
        print(f"top-{k} error {1 - right / len(truth):.3f} ({right} of {len(truth)} right)")


def parse_args():
    parser = Parser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("submission", help="what sub.py wrote")
    parser.add_argument("solution", help="the truth: data/sample/solution.csv")
    return parser.parse_args()


def read(path, column):
    """Return the rows of a CSV as `(id, row)` pairs."""
    require_file(path, "check its name")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV ({error}); is it the right file?") from None
    if not rows or {"id", column} - rows[0].keys():
        raise UserError(f"{path}: has no columns id and {column}; is it the right file?")
    for row in rows:
        if row[column] is None:
            raise UserError(f"{path}: the row of id {row['id']} is cut off; make it anew")
    return [(row["id"], row) for row in rows]


if __name__ == "__main__":
    run_script(main)
