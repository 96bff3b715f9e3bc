#!/bin/sh
# Step 2: packs the lists of step 1 into record files.
#
#   sh gen_rec.sh          data/{val,train}.lst and the photographs in data/ -> data/{val,train}.rec
#   sh gen_rec.sh DIR      the same in another folder
#
# A second call continues where the first one stopped, and skips what is complete.
# Edit here:
sets="val train" # add test to pack the test photographs too; sub.py needs no records of them
resize=512       # shorter side in pixels
quality=95       # of the JPEGs
threads=20       # images at a time, at most one per core

set -eu
case ${1:-} in
-h | --help) # print the comment above
    sed '1d; /^set -eu/,$d; s/^# \{0,1\}//' "$0"
    exit
    ;;
esac
if [ $# -gt 1 ]; then
    echo "gen_rec.sh: $2: it takes one folder; edit the settings at the top of gen_rec.sh" >&2
    exit 2
fi
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
data_dir=${1:-$here/data}
case $data_dir in
-*) data_dir=./$data_dir ;; # else its name would be taken for a flag
esac
# shellcheck source=common/python.sh
. "$here/common/python.sh"
# shellcheck source=common/background.sh
. "$here/common/background.sh"

cores=$(getconf _NPROCESSORS_ONLN)
[ "$threads" -le "$cores" ] || threads=$cores

status=0
for set in $sets; do
    # One damaged photograph in val (status 1) must not prevent the packing of train.
    run_step "$python" "$here/im2rec.py" --resize "$resize" --quality "$quality" \
        --num-thread "$threads" --resume "$data_dir/$set" "$data_dir" || status=$?
    [ "$status" -le 1 ] || exit "$status"
done
exit "$status"
