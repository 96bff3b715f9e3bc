"""Pretrained networks: `python -m common.modelzoo` (`common/tools/modelzoo.py`)."""

from common.base.script import run_script, stop_while_importing

stop_while_importing()

from common.tools.modelzoo import main

if __name__ == "__main__":
    run_script(main)
