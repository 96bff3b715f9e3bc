# shellcheck shell=sh disable=SC2154
# Read by the shell scripts of the steps, which set $here before. Sets $python to the interpreter of
# the environment that setup.sh made, or to the python3 on the PATH if there is none.
unset PYTHONSAFEPATH # with it, Python would not look for common/
case ${VENV:-} in
/*) python=$VENV/bin/python ;;
*) python=$here/${VENV:-.venv}/bin/python ;;
esac
if [ ! -x "$python" ]; then
    if [ -n "${VENV:-}" ]; then
        echo "$python: not found: make the environment: VENV=$VENV sh setup.sh" >&2
        exit 2
    fi
    python=python3
fi
