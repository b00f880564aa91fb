#!/usr/bin/env bash
# Beyond the dissertation: do generated views help DINO with a vision transformer, too?
#
#   DATA=/path/to/imagenet bash recipes/dino_vit.sh
#
# "DINO benefits from using a transformer-based encoder instead of a ResNet-based one" (4.1.5), but
# all tables are of ResNets. Here are three arms of ViT-S/16 with the settings of DINO's authors, on
# ImageNet-100, 100 epochs: hand-crafted views alone, in-painting (gamma 0.5, crop), and its control,
# the real image in place of the generated one. There are no published numbers to compare with.
# Six local crops as in Figure 30; PRETRAIN="--local-crops 8" is DINO's own number. A step of 200
# images a GPU needs 22.2 GiB, with --grad-checkpoint 5.2 GiB.
# Estimated on 4 x RTX 3090: 21 hours (generation 0.5, pretraining 19, evaluation 1.4)
# and 5.3 GB of disk.
STUDY=${STUDY:-imagenet100}
source "$(dirname "$0")/imagenet.sh"
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then
  PRETRAIN=${PRETRAIN/--backbone resnet10 --small-images/--backbone vit_tiny_patch8}
fi

say "the 100 classes, and one in-painted image for each image"
run env DATA="$DATA" bash recipes/imagenet100.sh "$DATA_ROOT/imagenet100"
DATA=$DATA_ROOT/imagenet100
mirror inpaint

dino="--method dino --backbone vit_small_patch16 --grad-checkpoint"
for seed in $SEEDS; do
  arm vit-baseline "$seed" $dino --mix 0
  arm vit-inpaint "$seed" $dino --generated "$GEN/inpaint" --mix 0.5
  arm vit-real "$seed" $dino --generated real --mix 0.5
done
run python 07_metrics.py report "$RUNS"
