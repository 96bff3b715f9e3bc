#!/bin/sh
# Trains on several machines: starts scheduler, servers and workers, and ends them together.
#
#   sh cluster.sh gpu1,gpu2,gpu3 -- sh run.sh --kv-store dist_sync     over ssh
#   sh cluster.sh localhost,localhost -- sh run.sh --kv-store dist_sync --gpus cpu     to try it
#
# On trusted networks only: MXNet's servers encrypt nothing and check nobody's identity, and they
# unpickle what they are sent (the optimizer): whoever reaches their ports can run code on them.
#
# Each host needs this folder under the same path, with its .venv, its records and the pretrained
# network, and ssh without a password. More: sh cluster.sh --help
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common/python.sh
. "$here/common/python.sh"
cd "$here"
exec "$python" -m common.cluster "$@"
