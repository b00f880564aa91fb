#!/usr/bin/env bash
# Table 3 (section 5.1): which hand-crafted augmentation goes on top of a generated view?
#
#   DATA=/path/to/imagenet bash recipes/table3_pairing.sh
#
# VICReg, ResNet-50, 100 epochs, batch 800. One view is always the generated one (gamma 1),
# with one augmentation or none on top. The table does not say gamma; its text and Table 6 do.
# Table 4 has the two arms with crop once more: in-painting with the same numbers, noise with 64.0
# instead of 62.8. The dissertation has no control. This one runs too: the real image where the
# generated one would stand, with nothing and with a crop on top (CONTROL_PAIRS).
# Estimated on 4 x RTX 3090: 480 hours (generation 5.8, pretraining 404, evaluation 70)
# and 102 GB of disk.
source "$(dirname "$0")/imagenet.sh"
STRATEGIES=${STRATEGIES:-"noise inpaint"}
PAIRS=${PAIRS:-"none crop flip solarize jitter blur grayscale"}
CONTROL_PAIRS=${CONTROL_PAIRS-"none crop"}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then STRATEGIES=noise PAIRS=crop CONTROL_PAIRS=crop; fi

say "one generated image per image and strategy"
for strategy in $STRATEGIES; do mirror "$strategy"; done

EVALUATIONS="linear ${SEMIS-semisup}"  # SEMIS= leaves 1 % and 10 % out
for seed in $SEEDS; do
  for strategy in $STRATEGIES; do
    for pair in $PAIRS; do
      arm "$strategy-gamma1-$pair" "$seed" --generated "$GEN/$strategy" --pair "$pair" \
        --mix 1
    done
  done
  for pair in $CONTROL_PAIRS; do
    arm "real-gamma1-$pair" "$seed" --generated real --pair "$pair" --mix 1
  done
done
run python 07_metrics.py report "$RUNS"
