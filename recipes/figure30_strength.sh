#!/usr/bin/env bash
# Figure 30 (section 5.3): how strong should the diffusion be?
#
#   DATA=/path/to/imagenet bash recipes/figure30_strength.sh
#
# ImageNet-100, DINO, ResNet-50, 100 epochs, gamma 0.5, crop and flip on top of the generated view;
# one SDXL-Turbo image for each image and strength, from BLIP's captions. The dissertation gives no
# accuracies: strengths 0.1 and 0.2 are better than "the baseline" 0.0, 0.2 by 0.8 points; 0.3 is
# about equal, 0.4 and more are worse. Its strength 0 may mean either control, so both run:
#   strength 0   the generator's reconstruction: encoded and decoded, nothing denoised
#   real         the real image where the generated one would stand
# beside the baseline of hand-crafted views alone. A strength is a share of the schedule's steps. With
# the fewest steps 0.3 would be 0.25 and 0.4 would be 0.33; with ten (STEPS) all six are exact. DINO
# with six local crops needs 29.1 GiB for its 200 images a GPU. --grad-checkpoint makes that 10.3 GiB,
# which fits 24 GB, at the same batch.
# Estimated on 4 x RTX 3090: 65 hours (generation 15, pretraining 47, evaluation 3.2)
# and 31 GB of disk.
STUDY=${STUDY:-imagenet100}
source "$(dirname "$0")/imagenet.sh"
STRENGTHS=${STRENGTHS:-"0 0.1 0.2 0.3 0.4 0.5"}
STEPS=${STEPS:-10}  # strength x STEPS is the number of steps that an image takes
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then STRENGTHS=0.2; fi

say "the 100 classes, their captions, and one image per image and strength"
run env DATA="$DATA" bash recipes/imagenet100.sh "$DATA_ROOT/imagenet100"
DATA=$DATA_ROOT/imagenet100
captions
mirror diffusion --strength $STRENGTHS --steps "$STEPS"

dino="--method dino --grad-checkpoint"
pairs="--mix 0.5 --pair crop flip"
for seed in $SEEDS; do
  arm dino-baseline "$seed" $dino --mix 0
  arm dino-real "$seed" $dino --generated real $pairs
  for strength in $STRENGTHS; do
    arm "dino-strength$strength" "$seed" $dino --generated "$GEN/diffusion/strength$strength" $pairs
  done
done
run python 07_metrics.py report "$RUNS"
