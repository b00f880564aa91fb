#!/usr/bin/env bash
# Table 6 (section 5.6): what does an augmentation cost, and what does it bring?
#
#   DATA=/path/to/imagenet bash recipes/table6_cost.sh
#
# FID and SSIM between image and augmented image, milliseconds an image at batch 1, parameters; and
# linear top-1 from encoders of which one view is always the generated one (gamma 1) with nothing on
# top. Two of the three encoders are Table 3's. The dissertation has no controls. Two run too: the
# real image and the tokenizer's reconstruction where the generated one would stand. The dissertation
# cites the top-1 of crop, jitter and blur from other work. Diffusion (strength 0.2, BLIP's captions)
# has no row there; it is measured along, without top-1.
# FID and SSIM are those of 10,000 images, ours for want of time: COST="--compare 1281167" takes all,
# as the dissertation does.
# Estimated on 4 x RTX 3090: 224 hours (generation 78, pretraining 126, evaluation 20)
# and 807 GB of disk.
source "$(dirname "$0")/imagenet.sh"
MEASURED=${MEASURED:-"noise inpaint outpaint reconstruction diffusion crop jitter blur"}
STRATEGIES=${STRATEGIES:-"noise inpaint outpaint real reconstruction"}  # those with an encoder
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then
  MEASURED="noise inpaint outpaint reconstruction diffusion jitter"
  STRATEGIES="inpaint outpaint"
  # Inception on a CPU would take minutes: one of the encoders stands in for it.
  COST="--images 2 --compare 6 --batch-size 3 --workers 0 --size 64
    --features $RUNS/inpaint-gamma1-none-seed0 $COST"
fi

say "the generated images"
mirrors=""
for name in $MEASURED; do
  case $name in
    crop | jitter | blur)
      $LAUNCH 02_augment.py "$name" --data "$DATA/train" --out "$GEN/$name" $GENERATE
      mirrors="$mirrors $GEN/$name"
      ;;
    diffusion)
      captions
      mirror diffusion
      mirrors="$mirrors $GEN/diffusion/strength0.2"
      ;;
    *)
      mirror "$name"
      mirrors="$mirrors $GEN/$name"
      ;;
  esac
done

for seed in $SEEDS; do
  for strategy in $STRATEGIES; do
    generated=$GEN/$strategy
    if [ "$strategy" = real ]; then generated=real; fi
    arm "$strategy-gamma1-none" "$seed" --generated "$generated" --mix 1 --pair none
  done
done

say "the measurements, on one device"
run python 07_metrics.py cost $mirrors --out "$RUNS/cost" --runs "$RUNS" $COST
run python 07_metrics.py report "$RUNS"
