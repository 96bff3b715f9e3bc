"""The report on the machine: `python -m common.doctor` (`common/tools/doctor.py`)."""

from common.base.script import run_script, stop_while_importing

stop_while_importing()

from common.tools.doctor import main

if __name__ == "__main__":
    run_script(main)
