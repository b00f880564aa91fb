#!/usr/bin/env bash
# Table 7 (section 5.8): the best arm of each strategy on ImageNet.
#
#   DATA=/path/to/imagenet bash recipes/table7_summary.sh
#
# The arms are those of Table 4, where the numbers of noise and out-painting stand the other way
# round. The dissertation describes its diffusion run nowhere. Ours is VICReg with strength 0.2 (the
# best in Figure 30), gamma 0.5, crop and flip: AN ASSUMPTION. The controls at gamma 0.5 run too: the
# real image, the tokenizer's reconstruction and, for diffusion, the real image with crop and flip
# and the generator's own reconstruction (strength 0). STRENGTHS= leaves diffusion out.
# Estimated on 4 x RTX 3090: 351 hours (generation 87, pretraining 227, evaluation 37)
# and 706 GB of disk.
source "$(dirname "$0")/imagenet.sh"
SEEDS=${SEEDS:-"0"}
ARMS=${ARMS:-"noise:0.25 outpaint:0.5 inpaint:0.5 real:0.5 reconstruction:0.5"}
STRENGTHS=${STRENGTHS-"0 0.2"}
if [ -n "${TINY:-}" ]; then ARMS="inpaint:0.5" STRENGTHS=0.2; fi

say "the arms of Table 4"
for arm in $ARMS; do
  if [ "${arm%:*}" != real ]; then mirror "${arm%:*}"; fi
done
for seed in $SEEDS; do
  arm baseline "$seed" --mix 0
  for arm in $ARMS; do mixed "$seed" "${arm%:*}" "${arm#*:}"; done
done

if [ -n "$STRENGTHS" ]; then
  say "diffusion (settings: our assumption)"
  captions
  mirror diffusion --strength $STRENGTHS
  for seed in $SEEDS; do
    for strength in $STRENGTHS; do
      arm "diffusion$strength-gamma0.5-crop-flip" "$seed" --mix 0.5 --pair crop flip \
        --generated "$GEN/diffusion/strength$strength"
    done
    arm real-gamma0.5-crop-flip "$seed" --generated real --mix 0.5 --pair crop flip
  done
fi
run python 07_metrics.py report "$RUNS"
