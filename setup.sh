#!/bin/sh
# Makes .venv with the MXNet wheel that fits this machine, and checks that it works.
#
#   sh setup.sh              detects which of the next three fits this machine
#   sh setup.sh cpu          no NVIDIA GPU
#   sh setup.sh cu117        NVIDIA GPUs from Maxwell to Ada, driver 450.80 or newer
#   sh setup.sh cu80         NVIDIA GPUs with CUDA 8.0 installed
#   sh setup.sh --detect     only prints which it would take
#   PYTHON=python3.9 sh setup.sh    with an interpreter of your choice (3.8 to 3.12)
#   VENV=.venv-2 sh setup.sh        in another folder than .venv
#
# A second call does nothing, in a fraction of a second, unless requirements/ has changed or another
# wheel or interpreter is asked for. To detect the machine again, remove .venv first.
set -eu
case ${1:-} in
-h | --help) # print the comment above
    sed '1d; /^set -eu/,$d; s/^# \{0,1\}//' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")"
venv=${VENV:-.venv}
venv=${venv%/}
old=$venv.old       # the previous environment, while a new one is made in its place
trash=$venv.discard # what is being removed: nothing under this name is ever used
stamp=$venv/setup-stamp
lock=.tmp-setup-lock

say() {
    echo "setup.sh: $*" >&2
}

# ---- Which wheel --------------------------------------------------------------------------------

# Print the wheel for this machine; on stderr, why a machine with a GPU gets the CPU wheel.
detect() {
    # One line per GPU, "compute capability, driver, name". Older drivers do not report the first.
    gpus=$(nvidia-smi --query-gpu=compute_cap,driver_version,name --format=csv,noheader 2>/dev/null) ||
        gpus=$(nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>/dev/null |
            sed 's/^/unknown, /') || true
    case $gpus in
    [0-9]*.*,* | "unknown, "[0-9]*) ;;
    *)
        ! command -v nvidia-smi >/dev/null ||
            say "nvidia-smi finds no GPU that works: taking the CPU wheel"
        echo cpu
        return
        ;;
    esac
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        say "MXNet's GPU wheels are for Linux on x86-64: taking the CPU wheel"
        echo cpu
        return
    fi
    if echo "$gpus" | fits_cu117; then
        echo cu117
    elif has_cuda_8 && echo "$gpus" | fits_cu80; then
        echo cu80
    else
        say "no MXNet wheel runs on $(echo "$gpus" | awk -F ', ' '
            { printf "%s%s (compute capability %s, driver %s)", (NR > 1) ? "; " : "", $3, $1, $2 }'
        ) of this machine: taking the CPU wheel. cu117 needs compute capability 5.0 to 8.9" \
            "(Maxwell to Ada) and driver 450.80 or newer, cu80 up to 6.2 and CUDA 8.0 installed"
        echo cpu
    fi
}

# Does one of the GPUs run mxnet-cu117? It has machine code for 5.0 to 8.6 and no PTX, so 8.9 runs
# it and 9.0 does not. Drivers too old to report the compute capability know no GPU newer than 8.6.
# They do know Kepler GPUs, which are too old; the names of those Tesla and GRID cards begin with K.
fits_cu117() {
    awk -F ', ' '
        { split($2, driver, "."); new = driver[1] > 450 || (driver[1] == 450 && driver[2] >= 80) }
        new && $1 == "unknown" && $3 !~ /(Tesla|GRID) K[0-9]/ { found = 1 }
        new && $1 != "unknown" && $1 >= 5.0 && $1 < 9.0 { found = 1 }
        END { exit !found }'
}

# CUDA 8 supports GPUs up to Pascal (6.2). Drivers too old to report the compute capability pass.
fits_cu80() {
    awk -F ', ' '$1 == "unknown" || $1 < 7.0 { found = 1 } END { exit !found }'
}

has_cuda_8() {
    { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q 'libcudart\.so\.8\.0' && return
    (
        IFS=:
        for folder in ${LD_LIBRARY_PATH:-} /usr/local/cuda-8.0/lib64; do
            [ -e "$folder/libcudart.so.8.0" ] && exit 0
        done
        exit 1
    )
}

# ---- Which Python -------------------------------------------------------------------------------

fits() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 8) <= sys.version_info < (3, 13))' \
        >/dev/null 2>&1
}

find_python() {
    earlier=''
    if [ -n "$made_wheel" ]; then # the interpreter that the present environment was made with
        earlier=$(sed -n 's/^home = //p' "$venv/pyvenv.cfg")/python3
    fi
    for candidate in "${PYTHON:-}" "$earlier" python3 python3.11 python3.12 python3.10 python3.9 python3.8 \
        python "${HOME:-}"/.pyenv/versions/3.*/bin/python /usr/local/bin/python3.* /opt/python*/bin/python3; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# ---- The environment ----------------------------------------------------------------------------

# The stamp says what $venv was made from: "WHEEL SUM-OF-REQUIREMENTS PYTHON STATE". It is written
# when everything is installed (STATE: installed) and again when MXNet has computed (works); before
# that the folder is never used. The previous environment stays as $old until the new one has been
# checked, so a run may be killed at any moment: the next one continues with what is complete.
read_stamp() {
    made_wheel='' made_sum='' made_python='' state=''
    if [ -f "$stamp" ] && [ -x "$venv/bin/python" ]; then
        read -r made_wheel made_sum made_python state <"$stamp" || true
    fi
    if [ -z "$state" ]; then
        made_wheel=''
    fi
}

sum_of() {
    cat requirements/common.txt "requirements/$1.txt" | cksum | tr ' ' '-'
}

is_as_wanted() {
    [ "$made_wheel $made_sum $made_python" = "$wheel $(sum_of "$wheel") ${python:-$made_python}" ]
}

# Remove a folder; rename it first, because an interruption may leave a part of it.
discard() {
    rm -rf "$trash"
    mv "$1" "$trash"
    rm -rf "$trash"
}

# Restore the previous environment; a partial new one is of no use.
put_back() {
    if [ -e "$venv" ]; then
        discard "$venv"
    fi
    if [ -d "$old" ]; then
        mv "$old" "$venv"
    fi
}

# Clean up after a run that was killed.
recover() {
    rm -rf "$trash"
    rmdir "$venv" 2>/dev/null || true # made, and nothing in it yet
    read_stamp
    if [ -z "$state" ] && [ -d "$old" ]; then
        put_back
        read_stamp
    fi
}

give_up() {
    say "$*"
    exit 1
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}

install() {
    if [ -n "$made_wheel" ]; then
        say "$venv is in use for $made_wheel and Python $made_python; another wheel, interpreter" \
            "or requirements/ are wanted: remaking it"
    elif [ -e "$stamp" ]; then
        discard "$venv" # a partial one
    elif [ -e "$venv" ]; then
        give_up "$venv exists and was not made by setup.sh: move it away, or name another" \
            "folder: VENV=.venv-mxnet sh setup.sh"
    fi
    if ! interpreter=$(find_python); then
        give_up "MXNet needs Python 3.8 to 3.12 with its venv module, and none is here;" \
            "install one (Debian, Ubuntu: apt-get install python3 python3-venv) and name it:" \
            "PYTHON=/path/to/python3.11 sh setup.sh"
    fi
    say "making $venv with $("$interpreter" --version 2>&1) and requirements/$wheel.txt"
    if [ -e "$venv" ]; then
        if [ -d "$old" ]; then
            discard "$old" # a run was killed before it had checked the one that is here
        fi
        mv "$venv" "$old"
    fi
    is_partial=yes
    mkdir -p "$venv"
    echo "unfinished" >"$stamp"
    "$interpreter" -m venv "$venv" ||
        give_up "$interpreter -m venv fails as above; name another interpreter: PYTHON=… sh setup.sh"
    pip --log "$venv/pip.log" install -r "requirements/$wheel.txt" || explain_pip
    take_headless_opencv
    rm -f "$venv/pip.log"
    echo "$wheel $(sum_of "$wheel") $(python_version "$interpreter") installed" >"$stamp"
    is_partial=''
    read_stamp
}

# pip's own messages are long and come first; the last line says what to do.
explain_pip() {
    if grep -q 'No space left' "$venv/pip.log"; then
        give_up "the disk is full; free some space and run it again"
    elif grep -qE 'Retry\(total=0|Could not fetch URL|(Connection|Timeout|Protocol)Error' "$venv/pip.log"; then
        give_up "pip cannot reach its package index: connect to the network (behind a proxy set" \
            "https_proxy) and run it again; or bring the wheels in a folder:" \
            "pip download -r requirements/$wheel.txt -d FOLDER elsewhere, and here" \
            "PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER sh setup.sh $wheel"
    elif grep -q 'No matching distribution' "$venv/pip.log"; then
        give_up "requirements/$wheel.txt has no wheel for $("$interpreter" --version 2>&1) on" \
            "$(uname -sm); docs/install.md lists the wheels"
    fi
    give_up "pip could not install requirements/$wheel.txt; pip's messages above say why"
}

# opencv-python can draw windows and needs libGL, which servers lack; the headless one does not.
take_headless_opencv() {
    if reason=$("$venv/bin/python" -c 'import cv2' 2>&1); then
        return
    fi
    case $reason in
    *libGL* | *libgthread* | *libglib* | *libSM* | *libXext* | *libX11*)
        version=$("$venv/bin/python" -c \
            'from importlib.metadata import version; print(version("opencv-python"))')
        say "no libGL on this machine: taking opencv-python-headless $version instead"
        pip uninstall --yes opencv-python
        pip --log "$venv/pip.log" install "opencv-python-headless==$version" || explain_pip
        "$venv/bin/python" -c 'import cv2'
        ;;
    *)
        echo "$reason" >&2
        give_up "import cv2 fails as above"
        ;;
    esac
}

check_mxnet() {
    "$venv/bin/python" - <<'END'
import sys

from common.base.files import UserError

try:
    from common.engines.mxnet.runtime import mx
except UserError as error:
    sys.exit(f"setup.sh: all is installed, but MXNet does not start here: {error}")
assert mx.nd.ones((2, 2)).sum().asscalar() == 4
print("setup.sh: MXNet", mx.__version__, "works", file=sys.stderr)
END
}

# ---- One run at a time --------------------------------------------------------------------------

# demo.sh and tests/run.sh both call this. The lock of `flock` ends with its process. Without flock
# (macOS, BSD) the lock is a symbolic link whose target is the process id.
wait_for_turn() {
    if command -v flock >/dev/null; then
        exec 9>>"$lock"
        flock -n 9 || { say "waiting for another run of setup.sh" && flock 9; }
    elif ln -s "$$" "$lock.$$" 2>/dev/null; then
        rm -f "$lock.$$"
        take "$lock.pid"
    else
        say "no flock here, and no symbolic links in this folder: nothing prevents two runs at once"
    fi
}

# Take the lock $1. If its process is dead, the next holder is whoever takes the lock named after
# that process, so only one of several waiting runs replaces it.
take() {
    until ln -s "$$" "$1" 2>/dev/null; do
        set -- "$1" "$(readlink "$1")"
        if [ -z "$2" ]; then # it was released at this moment
            sleep 1
        elif is_running "$2"; then
            [ -n "$waited" ] || say "waiting for another run of setup.sh, process $2"
            waited=yes
            sleep 1
        elif take "$1.$2" && [ "$(readlink "$1")" = "$2" ]; then
            mv -f "$1.$2" "$1"
            return
        else
            rm -f "$1.$2"
        fi
    done
}

# Is this the process id of a setup.sh? Another process may have the id of a dead one.
is_running() {
    if ! command -v ps >/dev/null; then
        kill -0 "$1" 2>/dev/null
        return
    fi
    case $(ps -p "$1" -o args= 2>/dev/null) in
    *setup.sh*) return 0 ;;
    *) return 1 ;;
    esac
}

finish() {
    if [ -n "$is_partial" ]; then
        put_back
    fi
    if [ "$(readlink "$lock.pid" 2>/dev/null)" = "$$" ]; then
        rm "$lock.pid"
    fi
}

# ---- The run ------------------------------------------------------------------------------------

if [ $# -gt 1 ]; then
    say "$*: more than one argument; see: sh setup.sh --help"
    exit 2
fi
wheel=${1:-}
if [ "$wheel" = --detect ]; then
    detect
    exit
fi
case $wheel in
'' | cpu | cu117 | cu80 | cpu-1.5) ;; # the last is for tests/run.sh
*)
    say "$wheel: not one of cpu, cu117, cu80, --detect"
    exit 2
    ;;
esac
python=''
if [ -n "${PYTHON:-}" ]; then
    if ! fits "$PYTHON"; then
        say "PYTHON=$PYTHON: not a Python 3.8 to 3.12 with its venv module"
        exit 2
    fi
    python=$(python_version "$PYTHON")
fi

is_partial='' waited=''
wait_for_turn
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
recover
wheel=${wheel:-${made_wheel:-$(detect)}}
if ! is_as_wanted; then
    install
fi
if [ "$state" != works ]; then
    if check_mxnet; then
        echo "$made_wheel $made_sum $made_python works" >"$stamp.new"
        mv "$stamp.new" "$stamp"
    elif [ "$wheel" = cpu ]; then
        if [ -d "$old" ]; then
            put_back
        fi
        exit 1
    fi # a GPU wheel may be installed on a machine without a GPU, e.g. into a container's image
fi
if [ -d "$old" ]; then
    discard "$old"
fi
