"""What differs from one year's challenge to the next: the files' names, archives and submission."""

import os
import re
from collections import namedtuple

from common.base.files import UserError
from common.base.help import check_ranges, whole

ARCHIVES = "https://ml-inat-competition-datasets.s3.amazonaws.com"
PAGE = "https://github.com/visipedia/inat_comp"

# How many category ids a row of the submission holds, best first, and the line above the rows.
CsvFormat = namedtuple("CsvFormat", ["places", "header"])
FORMATS = {
    2017: CsvFormat(5, "id,predicted"),
    2018: CsvFormat(3, "id,predicted"),
    2019: CsvFormat(1, "id,predicted"),
    2021: CsvFormat(5, "Id,Predicted"),  # the first of the five is scored
}


def json_name(set_name, year):
    """Return the official name of a set's JSON: `test2017.json`; `public_test.json` of 2021."""
    if year == 2021:
        return f"{'public_test' if set_name == 'test' else set_name}.json"
    return f"{set_name}{year}.json"


def folder_of_test(year):
    """Return the folder that the archive of the test photographs makes."""
    return os.path.splitext(json_name("test", year))[0]


def where_from(json_path):
    """Say where a JSON is unpacked from, by its name."""
    name = os.path.basename(json_path)
    year = re.search(r"\d{4}", name)
    if year and year.group() == "2017":
        return f"{ARCHIVES}/2017/{'test2017.zip' if 'test' in name else 'train_val2017.zip'}"
    if year and year.group() in ("2018", "2019"):
        return f"{ARCHIVES}/{year.group()}/{name}.tar.gz"
    return f"the archive of its challenge: see {PAGE}"


def how_to_get(json_path):
    """Say what to do where a JSON is missing: name another year's that is there, or unpack it."""
    folder, name = os.path.split(json_path)
    set_name = re.sub(r"(\d{4})?\.json$", "", name)
    for year in FORMATS:
        other = os.path.join(folder, json_name(set_name, year))
        if other != json_path and os.path.lexists(other):
            return f"for {other} name its year: --year {year}"
    return f"unpack it from {where_from(json_path)}"


def add_challenge_args(parser):
    """Add the flags that say which challenge a submission is for."""
    add = parser.add_argument_group("Challenge").add_argument
    add("--year", type=whole, default=2017, help="of the challenge (default: %(default)s)")
    add(
        "--places",
        type=whole,
        metavar="N",
        help="category ids in a row of the CSV (default: 2017 and 2021 five, 2018 three, 2019 one)",
    )
    add(
        "--header",
        metavar="NAME,NAME",
        help="first line of the CSV (default: id,predicted; 2021 Id,Predicted)",
    )


def csv_format(args):
    """Return the `CsvFormat` that the flags ask for: that of the year where they name none."""
    check_ranges(args, {"places": (1, None)})
    usual = FORMATS.get(args.year, FORMATS[2017])
    if args.header is not None:
        names = args.header.split(",")
        if len(names) != 2 or not all(name and name.isprintable() for name in names):
            raise UserError(
                f"--header {args.header}: must be two names with a comma between them, e.g."
                " Id,Predicted"
            )
    return CsvFormat(args.places or usual.places, args.header or usual.header)
