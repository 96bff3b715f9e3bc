#!/bin/sh
# Runs every benchmark with its peers, then makes the tables and charts of docs/ from the results.
#
#   sh benchmarks/run.sh          about three hours on two cores that are otherwise idle
#   sh benchmarks/run.sh quick    about 15 minutes, to see that all of it works: small versions, whose
#                                 results and tables go to benchmarks/quick/
#   TORCH_PYTHON=/path/to/python sh benchmarks/run.sh      measures PyTorch too
#
# TORCH_PYTHON names a Python with what requirements/peers.txt lists: both engines and all peers.
# 14 GB of memory and 10 GB of disk are needed. A benchmark that fails is named at the end, and does
# not stop the others.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."

case ${1:-} in
'') quick='' ;;
quick) quick=--quick ;;
*)
    echo "benchmarks/run.sh: $1: unknown argument; run sh benchmarks/run.sh [quick]" >&2
    exit 2
    ;;
esac

sh setup.sh
here=.
# shellcheck source=common/python.sh
. "$here/common/python.sh"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    -r requirements/sample.txt -r requirements/test-photographs.txt
[ -n "${TORCH_PYTHON:-}" ] ||
    echo "TORCH_PYTHON is not set: PyTorch is left out of feeding, training and submission"

trap 'exit 130' INT
failed=''
number=0
began=$(date +%s)

# measure MINUTES WHAT MODULE [FLAGS]: print what is measured, run it, print how long it took.
measure() {
    minutes=$1 what=$2 module=$3
    shift 3
    command="$module${*:+ $*}${quick:+ $quick}"
    number=$((number + 1))
    printf '\n== %s of 23: %s' "$number" "$what"
    [ -n "$quick" ] || printf ' (about %s min)' "$minutes"
    printf '\n$ python -m benchmarks.%s\n' "$command"
    start=$(date +%s)
    runner=$python
    case $module in # their sides need both engines, timm and the other runtimes
    engines | inference_peers | prediction_profile | processes | company) runner=${TORCH_PYTHON:-$python} ;;
    esac
    "$runner" -m "benchmarks.$module" "$@" $quick || failed="$failed, $command"
    echo "   took $(($(date +%s) - start)) s"
}

measure 2 "time and memory of mx_list.py for 10,000 to 1,000,000 images" lists
measure 2 "photographs packed per second: ours, MXNet's im2rec.py, a bare loop over cv2" packing
measure 7 "memory of packing 3,000 large photographs" packing --large
measure 15 "images fed per second: ours, MXNet's iterators, PyTorch's DataLoader, DALI" feeding
measure 1 "where the time of feeding goes" feeding_profile
measure 1 "memory of feeding over twenty epochs" loader_memory
measure 2 "packing and feeding with 1, 2, 4, ... workers" scaling
measure 8 "training ResNet-152: ours, MXNet's own threads, PyTorch" training
measure 2 "where the time of a training step goes" training_profile
measure 3 "what the training loop costs over the bare Module" training_loop
measure 11 "predicting with ResNet-152: ours, the 2017 way, PyTorch" submission
measure 10 "both engines and plain PyTorch (needs sh setup.sh both; ConvNeXt-T: timm)" engines
measure 6 "the same with the instructions of older processors: AVX2" engines --instructions AVX2
measure 9 "the same with AVX-512 without VNNI and BF16" engines --instructions AVX512_CORE
measure 30 "predicting: ours, PyTorch compiled, ONNX Runtime, OpenVINO (needs requirements/peers.txt)" \
    inference_peers
measure 2 "where the time of prediction goes (needs requirements/peers.txt)" prediction_profile
measure 1 "training in several processes, PyTorch (needs sh setup.sh both)" processes
measure 2 "two trainings on one machine, by how their threads wait" company
measure 2 "what it costs to start the scripts and the engines" starts
measure 10 "how cost grows with images, batches, cores, classes, views, networks and records" growth
measure 3 "time and memory of merging five networks of the whole challenge" merge
measure 35 "what the network learns on the sample, with several seeds" learning
measure 15 "what correcting the momentum gains when the learning rate steps, five seeds" momentum

printf '\n== The tables and charts\n'
"$python" -m benchmarks.tables $quick || failed="$failed, tables"

printf '\n== Done in %s min' "$((($(date +%s) - began) / 60))"
if [ -n "$failed" ]; then
    printf '; failed, and not new in the tables: %s\n' "${failed#, }"
    exit 1
fi
printf '\n'
