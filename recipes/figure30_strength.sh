#!/usr/bin/env bash
# Figure 30 (section 5.3): how strong should the diffusion be?
#
#   DATA=/path/to/imagenet bash recipes/figure30_strength.sh
#
# ImageNet-100, DINO, ResNet-50, 100 epochs, gamma 0.5, crop and flip on top of the generated view; one SDXL-Turbo
# image per image and strength, from BLIP's captions.
# Dissertation: the text gives no accuracies. Strengths 0.1 and 0.2 are better than "the baseline" 0.0, 0.2 by 0.8
# points; 0.3 is about equal, 0.4 and more are worse. Its strength 0 may mean either control, so both run:
#   strength 0   the generator's reconstruction (encoded, decoded, nothing denoised)
#   real         the real image where the generated one would stand
# beside the baseline of hand-crafted views alone.
# Disk 30 GB. Hours on 4x3090, estimated as in imagenet.sh: captions 0.3, generation 9, 8 arms of 3.7 (DINO with six
# local crops, 93 GFLOP an image, 3.4; linear 0.3) = 30 a seed.
STUDY=imagenet100
source "$(dirname "$0")/imagenet.sh"
STRENGTHS=${STRENGTHS:-"0 0.1 0.2 0.3 0.4 0.5"}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then STRENGTHS="0 0.2"; fi

say "the 100 classes, their captions, and one image per image and strength"
run env DATA="$DATA" bash recipes/imagenet100.sh "$DATA_ROOT/imagenet100"
DATA=$DATA_ROOT/imagenet100
captions
mirror diffusion --strength $STRENGTHS

for seed in $SEEDS; do
  pretrain dino-baseline "$seed" --method dino --mix 0
  linear dino-baseline "$seed"
  pretrain dino-real "$seed" --method dino --generated real --mix 0.5 --pair crop flip
  linear dino-real "$seed"
  for strength in $STRENGTHS; do
    pretrain "dino-strength$strength" "$seed" --method dino --generated "$GEN/diffusion/strength$strength" --mix 0.5 \
      --pair crop flip
    linear "dino-strength$strength" "$seed"
  done
done
run python 07_metrics.py report "$RUNS"
