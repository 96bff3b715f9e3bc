#!/bin/sh
# Trains on several machines: starts a worker on each, and ends them together.
#
#   sh cluster.sh gpu1,gpu2,gpu3 -- sh run.sh --kv-store dist_sync     over ssh
#   sh cluster.sh localhost,localhost -- sh run.sh --kv-store dist_sync --gpus cpu     to try it
#   sh cluster.sh gpu1,gpu2,gpu3 -- sh run.sh --kv-store dist_sync --engine torch     with PyTorch
#
# On trusted networks only: neither MXNet nor PyTorch encrypts anything or checks anybody's
# identity, and MXNet's servers unpickle what they are sent (the optimizer): whoever reaches their
# ports can run code on them.
#
# Each host needs this folder under the same path, with its .venv, its records and the pretrained
# network, and ssh without a password. More: sh cluster.sh --help
set -eu
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common/python.sh
. "$here/common/python.sh"
cd "$here"
exec "$python" -m common.cluster "$@"
