# shellcheck shell=sh disable=SC2154
# Read by the shell scripts of the steps, which set $here before. Sets $python to the interpreter of
# the environment that setup.sh made, or to the python3 on the PATH if there is none.
python=$here/${VENV:-.venv}/bin/python
[ -x "$python" ] || python=python3
