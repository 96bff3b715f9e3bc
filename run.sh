#!/bin/sh
# Step 3: fine-tunes the pretrained network with the flags of the 2017 baseline. Edit them here, or
# append others to the command: sh run.sh --gpus 0 --batch-size 12
#
# All other flags: .venv/bin/python fine-tune.py --help
set -eu
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common/python.sh
. "$here/common/python.sh"

# Where the zoo's files cannot be had, take one of these, with --engine torch (docs/timm.md):
#   timm:resnetv2_101x1_bit.goog_in21k    its nearest relative: pre-activation ResNet-101, ImageNet-21k
#   timm:convnext_base.clip_laion2b_augreg_ft_in12k    a newer network, ImageNet-12k, for 256 pixels
pretrained_model=$here/model/resnet-152     # ResNet-152 of ImageNet-11k: resnet-152-symbol.json, …
load_epoch=0                                # 0: from the pretrained network; N: continue from epoch N
engine=auto                                 # mxnet or torch; auto: chosen by the machine
gpus=0,1,2,3                                # each batch is split over them; cpu: no GPU
model_prefix=$here/model/iNat-resnet-152    # prefix of the names of the checkpoints
data_nthreads=48                            # threads that read photographs
batch_size=48                               # images per batch, of all GPUs together
num_classes=5089                            # species in train2017.json
num_examples=579184                         # photographs in train2017.json

# A flag that is appended to the command comes last, and the last one counts.
exec "$python" "$here/fine-tune.py" \
    --pretrained-model "$pretrained_model" \
    --load-epoch "$load_epoch" \
    --engine "$engine" \
    --gpus "$gpus" \
    --model-prefix "$model_prefix" \
    --data-nthreads "$data_nthreads" \
    --batch-size "$batch_size" \
    --num-classes "$num_classes" \
    --num-examples "$num_examples" \
    "$@"
