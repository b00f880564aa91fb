#!/usr/bin/env bash
# Table 4 (section 5.2): how often should a view be generated?
#
#   DATA=/path/to/imagenet bash recipes/table4_mixing.sh
#
# VICReg, ResNet-50, 100 epochs, batch 800, crop on top of a generated view; otherwise the full hand-crafted set.
# Dissertation, linear top-1 at gamma     0.25  0.5   0.75  1      (none: 65.8; 1 % labels 42.9, 10 % 60.7)
#   noise                                 66.3  65.9  65.3  64.0   1 %: 43.9 42.9 41.7 40.7   10 %: 61.1 60.5 59.6 58.9
#   in-painting                           67.9  68.7  68.5  67.9        47.0 48.3 48.5 47.9         62.9 63.5 63.3 62.9
#   out-painting                          66.8  66.8  66.7  66.4        44.5 45.1 45.1 45.2         61.7 61.9 61.8 61.7
# (GenRep 51.2 and COP-Gen 53.3 are cited there from other work.) It has no controls; here they are:
#   real            the real image where the generated one would stand: same resize, crop and pairing
#   reconstruction  the tokenizer's reconstruction, nothing masked
# A generated view is also a less coloured one: what the controls gain over the baseline is no gain of generation.
# Disk 600 GB (out-painting has nine views). Hours on 4x3090, estimated as in imagenet.sh: generation 58, of which
# out-painting 50; 21 arms x 22 = 470 a seed.
source "$(dirname "$0")/imagenet.sh"
STRATEGIES=${STRATEGIES:-"noise inpaint outpaint"}
GAMMAS=${GAMMAS:-"0.25 0.5 0.75 1"}
SEEDS=${SEEDS:-"0"}
CONTROL_GAMMAS=${CONTROL_GAMMAS:-$GAMMAS}
if [ -n "${TINY:-}" ]; then STRATEGIES="noise inpaint" GAMMAS="0.25 0.5" CONTROL_GAMMAS="0.5"; fi
need_subsets

say "generated images, and the tokenizer's reconstructions"
for strategy in $STRATEGIES reconstruction; do mirror "$strategy"; done

arm() {  # name, seed, then the flags that make the arm
  pretrain "$@"
  linear "$1" "$2"
  semisup "$1" "$2"
}
for seed in $SEEDS; do
  arm baseline "$seed" --mix 0
  for gamma in $GAMMAS; do
    for strategy in $STRATEGIES; do
      arm "$strategy-gamma$gamma-crop" "$seed" --generated "$GEN/$strategy" --mix "$gamma" --pair crop
    done
  done
  for gamma in $CONTROL_GAMMAS; do
    arm "real-gamma$gamma-crop" "$seed" --generated real --mix "$gamma" --pair crop
    arm "reconstruction-gamma$gamma-crop" "$seed" --generated "$GEN/reconstruction" --mix "$gamma" --pair crop
  done
done
run python 07_metrics.py report "$RUNS"
