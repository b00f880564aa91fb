#!/usr/bin/env bash
# Table 3 (section 5.1): which hand-crafted augmentation goes on top of a generated view?
#
#   DATA=/path/to/imagenet bash recipes/table3_pairing.sh
#
# VICReg, ResNet-50, 100 epochs, batch 800. The second view is always the generated one (gamma 1), with one
# augmentation or none on top. The table itself does not say gamma; its text and Table 6 do.
# Dissertation, linear top-1 / 1 % / 10 % labels:
#   noise (IC-GAN)       none 54.4 / 32.9 / 49.3   crop 62.8 / 40.6 / 58.3   flip 57.4   solarize 55.8   jitter 55.7
#                        blur 54.2   grayscale 52.7
#   in-painting          none 67.8 / 48.3 / 63.0   crop 67.9 / 47.9 / 62.9   flip 67.8   solarize 67.6   jitter 67.5
#                        blur 67.8   grayscale 67.6 / 48.6 / 63.1
# Table 4 has the two crop arms once more: in-painting with the same numbers, noise with 64.0 instead of 62.8.
# Disk 100 GB. Hours on 4x3090, estimated as in imagenet.sh: generation 7, 14 arms x 22 = 310 a seed.
source "$(dirname "$0")/imagenet.sh"
STRATEGIES=${STRATEGIES:-"noise inpaint"}
PAIRS=${PAIRS:-"none crop flip solarize jitter blur grayscale"}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then PAIRS="none crop"; fi
need_subsets

say "one generated image per image and strategy"
for strategy in $STRATEGIES; do mirror "$strategy"; done

for seed in $SEEDS; do
  for strategy in $STRATEGIES; do
    for pair in $PAIRS; do
      name=$strategy-gamma1-$pair
      pretrain "$name" "$seed" --generated "$GEN/$strategy" --mix 1 --pair "$pair"
      linear "$name" "$seed"
      semisup "$name" "$seed"
    done
  done
done
run python 07_metrics.py report "$RUNS"
