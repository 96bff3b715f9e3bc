#!/bin/sh
# Makes .venv with an engine that runs on this machine, MXNet or PyTorch, and checks that it works.
#
#   sh setup.sh              takes MXNet where it has a wheel for this machine, otherwise PyTorch
#   sh setup.sh cpu          MXNet, no NVIDIA GPU
#   sh setup.sh cu117        MXNet on NVIDIA GPUs from Maxwell to Ada, driver 450.80 or newer
#   sh setup.sh cu80         MXNet on NVIDIA GPUs with CUDA 8.0 installed
#   sh setup.sh torch        PyTorch, on any Python from 3.8 on
#   sh setup.sh both         PyTorch, and MXNet on the CPU (Python 3.9 to 3.12)
#   sh setup.sh --detect     only prints which it would take
#   PYTHON=python3.9 sh setup.sh    with an interpreter of your choice
#   VENV=.venv-2 sh setup.sh        in another folder than .venv
#
# It says what it downloads, and how large that is, before it begins. The new environment is made
# beside the present one, and takes its place when it has computed something. A second call does
# nothing, in a fraction of a second, unless requirements/ has changed or another engine or
# interpreter is asked for. To detect the machine again, remove .venv first.
set -eu
case ${1:-} in
-h | --help) # print the comment above
    sed '1d; /^set -eu/,$d; s/^# \{0,1\}//' "$0"
    exit
    ;;
esac
unset CDPATH PYTHONSAFEPATH # of another project, perhaps
cd "$(dirname "$0")"

# Any Python that is not too old runs the set-up, which looks for the one that the engine needs.
for python in python3 python "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3.10 \
    python3.9 python3.8 "${HOME:-}"/.pyenv/versions/3.*/bin/python /usr/local/bin/python3.* \
    /opt/python*/bin/python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
        exec "$python" -m common.setup "$@"
    fi
done
echo "setup.sh: no Python 3.8 or newer is here; install one (Debian, Ubuntu: apt-get install" \
    "python3 python3-venv) and name it: PYTHON=/path/to/python3.11 sh setup.sh" >&2
exit 1
