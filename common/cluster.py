"""Several machines: `python -m common.cluster` (`common/tools/cluster.py`)."""

from common.base.script import run_script, stop_while_importing

stop_while_importing()

from common.tools.cluster import main

if __name__ == "__main__":
    run_script(main)
