#!/usr/bin/env bash
# Table 6 (section 5.6): what does an augmentation cost, and what does it bring?
#
#   DATA=/path/to/imagenet bash recipes/table6_cost.sh
#
# FID and SSIM between image and augmented image, milliseconds an image at batch 1, parameters; linear top-1 from
# encoders whose second view is always the generated one (gamma 1) with nothing on top. Two of them are Table 3's;
# out-painting's 66.5 is in no other table. The top-1 of crop, jitter and blur are cited there from other work.
# Dissertation          top-1   FID     SSIM    ms       parameters
#   noise               54.4    21.13   0.21    19.82    116 M
#   in-painting         67.8    3.70    0.32    98.93    227 M
#   out-painting        66.5    7.29    0.27    100.91   227 M
#   crop                33.1    2.48    0.27    0.58
#   color jitter        18.8    0.23    0.87    3.70
#   gaussian blur       2.6     3.72    0.88    0.64
# and in-painting 5x as long as noise, 26x as long as jitter; one view of ImageNet 25 % of a training of 100 epochs.
# Diffusion, which has no row there, is measured along (strength 0.2, BLIP's captions), without top-1.
# FID is of 10,000 images, ours for want of time; COST="--compare 1281167" takes all, as the dissertation does.
# Disk 550 GB, out-painting 450 of it. Hours on 4x3090, estimated as in imagenet.sh: 3 for the measurements (on one
# GPU), captions 2, out-painting 50 and its arm 22; the two other arms 44, if Table 3 has not made them.
source "$(dirname "$0")/imagenet.sh"
STRATEGIES=${STRATEGIES:-"noise inpaint outpaint"}
AUGMENTATIONS=${AUGMENTATIONS:-"noise inpaint outpaint diffusion crop jitter blur"}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then  # Inception on a CPU would take minutes: one of the encoders stands in for it
  STRATEGIES="inpaint outpaint" AUGMENTATIONS="noise inpaint diffusion jitter"
  COST="--images 2 --compare 6 --batch-size 3 --workers 0 --features $RUNS/inpaint-gamma1-none-seed0 $COST"
fi

for seed in $SEEDS; do
  for strategy in $STRATEGIES; do
    mirror "$strategy"
    pretrain "$strategy-gamma1-none" "$seed" --generated "$GEN/$strategy" --mix 1 --pair none
    linear "$strategy-gamma1-none" "$seed"
  done
done

say "the measurements"
captions
run python 07_metrics.py cost --data "$DATA/train" --out "$RUNS/cost" --runs "$RUNS" --augmentations $AUGMENTATIONS \
  --inpaint "$MASKGIT" --outpaint "$MASKGIT $OUTPAINT" --diffusion "--captions $GEN/captions.jsonl $SDXL" $COST
run python 07_metrics.py report "$RUNS"
