#!/bin/sh
# Runs the tests; first makes the environment that they need.
#
#   sh tests/run.sh                 the linters and the suite: a few minutes
#   sh tests/run.sh all             the slow tests too
#   sh tests/run.sh tests/test_image.py -k crop     other arguments go to pytest
#   sh tests/run.sh -n 0            one test at a time; without it, one for each core
#   MXNET=1.5.0 sh tests/run.sh     with the Python code of mxnet-cu80, in .venv-1.5.0
#   ENGINE=torch sh tests/run.sh    with PyTorch alone and the newest Python, in .venv-torch-only
#   ENGINE=both sh tests/run.sh     what compares PyTorch with MXNet, in .venv-torch, which has both
#   MXNET=none sh tests/run.sh      without any engine and with the newest Python, in .venv-none
#   PYTHON=python3.13 ENGINE=torch sh tests/run.sh    with an interpreter of your choice
set -eu
unset CDPATH
cd "$(dirname "$0")/.."

# Print the newest Python of this machine that can make environments.
newest_python() {
    for candidate in python3 python3.13 python3.14 python3.15 "${HOME:-}"/.pyenv/versions/3.*/bin/python \
        /usr/bin/python3.* /usr/local/bin/python3.* /opt/python*/bin/python3; do
        "$candidate" -c 'import ensurepip, sys, venv; print(*sys.version_info[:3], sys.executable)' \
            2>/dev/null || true
    done | sort -n -k 1,1 -k 2,2 -k 3,3 | tail -n 1 | cut -d ' ' -f 4-
}

# Take the newest Python, and these requirements, for an environment that setup.sh does not make.
without_mxnet() {
    export VENV="$1" # the shell scripts of the steps look there too
    requirements=$2
    interpreter=${PYTHON:-$(newest_python)}
    if [ -z "$interpreter" ]; then
        echo "tests/run.sh: no Python with its venv module is here; name one: PYTHON=python3.13" >&2
        exit 2
    fi
}

interpreter='' requirements='' pinned=''
case ${ENGINE:-} in
'') ;;
torch) without_mxnet .venv-torch-only requirements/torch.txt ;;
both)
    pinned=torch==2.13.0
    export VENV=.venv-torch
    requirements=requirements/both.txt
    [ $# -gt 0 ] || set -- tests/engines tests/sub -k "engines or torch"
    ;;
*)
    echo "tests/run.sh: ENGINE=$ENGINE: not one of torch, both" >&2
    exit 2
    ;;
esac

case ${MXNET:-} in
'') wheel='' ;;
1.9.1) wheel=cpu ;;
1.5.0)
    wheel=cpu-1.5
    export VENV=.venv-1.5.0 # the shell scripts of the steps look there too
    ;;
none) without_mxnet .venv-none requirements/no-mxnet.txt ;;
*)
    echo "tests/run.sh: MXNET=$MXNET: not one of 1.5.0, 1.9.1, none" >&2
    exit 2
    ;;
esac
venv=${VENV:-.venv}
stamp=$venv/tests-stamp
wanted=$(cat requirements/dev.txt requirements/onnx.txt requirements/sample.txt \
    requirements/test-photographs.txt | cksum)
if [ -z "$interpreter" ]; then
    sh setup.sh ${wheel:+"$wheel"}
else
    wanted="$wanted $("$interpreter" --version)"
fi
[ -z "$requirements" ] || wanted="$wanted $pinned $(cksum <"$requirements")"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "tests/run.sh: installing what the tests need"
    pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 $venv/bin/python -m pip install --quiet"
    if [ -n "$interpreter" ]; then
        "$interpreter" -m venv --clear "$venv"
        $pip -r "$requirements" ${pinned:+"$pinned"}
    fi
    $pip -r requirements/dev.txt -r requirements/onnx.txt
    if [ "${ENGINE:-}" = both ]; then
        $pip -r "$requirements" "$pinned"
    fi
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
# A worker for each core; `-n` among the arguments counts instead. A worker that is done takes tests
# from the end of another's, so that neighbours, which share fixtures, mostly stay together.
exec "$venv/bin/python" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
