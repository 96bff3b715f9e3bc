# shellcheck shell=sh disable=SC2154
# For the shell scripts of the steps, which set $here and read this file: $python is the interpreter
# of the environment that setup.sh made, or the one on the PATH where there is none.
python=$here/${VENV:-.venv}/bin/python
[ -x "$python" ] || python=python3
