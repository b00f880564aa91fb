#!/usr/bin/env bash
# Figure 31 (section 5.4): does more than one generated view per image help?
#
#   DATA=/path/to/imagenet bash recipes/figure31_views.sh
#
# ImageNet-100, five methods, 100 epochs, out-painting, gamma 1, crop on top: 0 (hand-crafted views alone), 1, 2 or 3
# of the nine views of an image at a time, with batches of 768, 768, 512 and 384.
# Dissertation: the text gives no accuracies. Every method gains with the first generated view; Barlow Twins, the
# best, gains 0.3 points from one view to three.
# It has no controls; here they are:
#   real            the real image where each generated one would stand, as many times
#   reconstruction  the tokenizer's reconstruction, nothing masked; there is only one, so for one view
# Disk 50 GB. Hours on 4x3090, estimated as in imagenet.sh: out-painting 5, then a method 1.9 h for 0 and 1 view, 2.8
# for 2, 3.7 for 3 and 0.3 for each linear evaluation: 23 h with its controls, 120 for all (BYOL a third more).
STUDY=imagenet100
source "$(dirname "$0")/imagenet.sh"
METHODS=${METHODS:-"barlow vicreg swav byol simclr"}
VIEWS=${VIEWS:-"1 2 3"}
CONTROL_VIEWS=${CONTROL_VIEWS:-$VIEWS}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then METHODS="barlow swav" VIEWS="1 2" CONTROL_VIEWS="2"; fi
batch=(768 768 512 384)  # by the number of generated views

say "the 100 classes, nine views of each image, and the tokenizer's reconstructions"
run env DATA="$DATA" bash recipes/imagenet100.sh "$DATA_ROOT/imagenet100"
DATA=$DATA_ROOT/imagenet100
mirror outpaint
mirror reconstruction

arm() {  # method, name, seed, number of generated views, then the flags that make the arm
  local method=$1 name=$1-$2 seed=$3 views=$4; shift 4
  pretrain "$name" "$seed" --method "$method" --batch-size "${batch[$views]}" "$@"
  linear "$name" "$seed"
}
for seed in $SEEDS; do
  for method in $METHODS; do
    arm "$method" baseline "$seed" 0 --mix 0
    for views in $VIEWS; do
      arm "$method" "views$views" "$seed" "$views" --generated "$GEN/outpaint" --views "$views" --mix 1 --pair crop
    done
    for views in $CONTROL_VIEWS; do
      arm "$method" "real-views$views" "$seed" "$views" --generated real --views "$views" --mix 1 --pair crop
    done
    arm "$method" reconstruction-views1 "$seed" 1 --generated "$GEN/reconstruction" --mix 1 --pair crop
  done
done
run python 07_metrics.py report "$RUNS"
