#!/usr/bin/env bash
# Figure 31 (section 5.4): does more than one generated view of an image help?
#
#   DATA=/path/to/imagenet bash recipes/figure31_views.sh
#
# ImageNet-100, five methods, 100 epochs, out-painting, gamma 1, crop on top: 0 (hand-crafted views
# alone), 1, 2 or 3 of an image's nine views at a time, in batches of 768, 768, 512 and 384. The
# dissertation gives no accuracies: every method gains with the first generated view; Barlow Twins,
# the best, gains 0.3 points from one view to three. It has no controls. These run too:
#   real            the real image where each generated one would stand, as many times
#   reconstruction  the tokenizer's reconstruction; there is only one, so for one view
# All arms fit 24 GB: at most 18.9 GiB a GPU (python tools/estimates.py memory).
# Estimated on 4 x RTX 3090: 164 hours (generation 4.9, pretraining 143, evaluation 16)
# and 54 GB of disk.
STUDY=${STUDY:-imagenet100}
source "$(dirname "$0")/imagenet.sh"
METHODS=${METHODS:-"barlow vicreg swav byol simclr"}
VIEWS=${VIEWS:-"1 2 3"}
CONTROL_VIEWS=${CONTROL_VIEWS:-$VIEWS}
SEEDS=${SEEDS:-"0"}
if [ -n "${TINY:-}" ]; then METHODS=swav VIEWS=2 CONTROL_VIEWS=2; fi
batch=(768 768 512 384)  # by the number of generated views

say "the 100 classes, nine views of each image, and the tokenizer's reconstructions"
run env DATA="$DATA" bash recipes/imagenet100.sh "$DATA_ROOT/imagenet100"
DATA=$DATA_ROOT/imagenet100
mirror outpaint
mirror reconstruction

views_arm() {  # method, name, seed, number of generated views, then the flags that make the arm
  local method=$1 name=$1-$2 seed=$3 views=$4; shift 4
  arm "$name" "$seed" --method "$method" --batch-size "${batch[$views]}" "$@"
}
for seed in $SEEDS; do
  for method in $METHODS; do
    views_arm "$method" baseline "$seed" 0 --mix 0
    for views in $VIEWS; do
      views_arm "$method" "views$views" "$seed" "$views" --generated "$GEN/outpaint" --views "$views" \
        --mix 1 --pair crop
    done
    for views in $CONTROL_VIEWS; do
      views_arm "$method" "real-views$views" "$seed" "$views" --generated real --views "$views" \
        --mix 1 --pair crop
    done
    views_arm "$method" reconstruction-views1 "$seed" 1 --generated "$GEN/reconstruction" \
      --mix 1 --pair crop
  done
done
run python 07_metrics.py report "$RUNS"
