"""Pretrained networks: `python -m common.modelzoo` (`common/tools/modelzoo.py`)."""

from common.base.script import run_script
from common.tools.modelzoo import main

if __name__ == "__main__":
    run_script(main)
