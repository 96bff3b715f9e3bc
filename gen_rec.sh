#!/bin/sh
# Step 2: packs the lists of step 1 into record files.
#
#   sh gen_rec.sh          data/{val,train}.lst and the photographs in data/ -> data/{val,train}.rec
#   sh gen_rec.sh DIR      the same in another folder
#
# A second call goes on where the first one stopped and leaves alone what is whole.
# Edit here:
sets="val train" # add test to pack the test photographs too; sub.py reads them as they lie
resize=512       # shorter side in pixels
quality=95       # of the JPEGs
threads=20       # images at a time, at most one a core

set -eu
case ${1:-} in
-h | --help) # what stands at the top of this file
    sed '1d; /^set -eu/,$d; s/^# \{0,1\}//' "$0"
    exit
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
data_dir=${1:-$here/data}
case $data_dir in
-*) data_dir=./$data_dir ;; # else its name would be taken for a flag
esac
# shellcheck source=common/python.sh
. "$here/common/python.sh"

cores=$(getconf _NPROCESSORS_ONLN)
[ "$threads" -le "$cores" ] || threads=$cores

# Who stops this script stops the packing, too; a shell hears signals only while it waits.
packing=
trap '[ -z "$packing" ] || kill "$packing" || :; wait; exit 130' INT
trap '[ -z "$packing" ] || kill "$packing" || :; wait; exit 143' TERM

status=0
for set in $sets; do
    "$python" "$here/im2rec.py" --resize "$resize" --quality "$quality" --num-thread "$threads" \
        --resume "$data_dir/$set" "$data_dir" &
    packing=$!
    # One damaged photograph in val (status 1) shall not cost the night's packing of train.
    wait "$packing" || status=$?
    [ "$status" -le 1 ] || exit "$status"
done
exit "$status"
