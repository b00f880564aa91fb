#!/usr/bin/env bash
# Table 2 (section 2.3): Gaussian noise, steering and a navigator on the feature map.
#
#   DATA=/path/to/imagenet bash recipes/table2_features.sh
#
# The dissertation quotes COP-Gen's numbers: SimCLR at 128 px on images of BigBiGAN, both views
# generated, with SimCLR's augmentations on top. IC-GAN, the generator of the other tables, stands in
# BigBiGAN's place. A pair is the image G(z, f) of a real image's feature map f and
# G(z, f + w) from the same noise vector z, where w is
#   gaussian   Gaussian noise of standard deviation 0.01, cut at two of them (GenRep)
#   steer-*    the direction that imitates an edit, at its full strength (GenRep)
#   navigator  what one layer adds, trained against SimCLR's loss (COP-Gen)
# The strengths, 100 epochs and batch 800 are ours: no text states them. The dissertation has no
# control. This one runs too: the real image in both places, stored as the generated ones.
# Estimated on 4 x RTX 3090: 48 hours (generation 1.5, pretraining 40, evaluation 6.7)
# and 202 GB of disk.
source "$(dirname "$0")/imagenet.sh"
EDITS=${EDITS:-"zoom"}  # of brightness, shift and zoom
FEATURE_NOISE=${FEATURE_NOISE:-0.01}
AUGMENTER=${AUGMENTER:-}
SEEDS=${SEEDS:-"0"}
PRETRAIN="--method simclr --size 128 $PRETRAIN"
if [ -n "${TINY:-}" ]; then
  AUGMENTER="--images 12 --steps 2 --batch-size 4 --workers 0 $AUGMENTER"
fi

say "one direction for each edit, and the navigator: on one device, minutes each"
arms="gaussian navigator"
for edit in $EDITS; do
  run python extras/train_augmenter.py steer --edit "$edit" --data "$DATA/train" \
    --out "$GEN/augmenters/$edit" $AUGMENTER
  arms="$arms steer-$edit"
done
run python extras/train_augmenter.py navigator --data "$DATA/train" \
  --feature-noise "$FEATURE_NOISE" --out "$GEN/augmenters/navigator" $AUGMENTER

say "the images of the feature maps as they are, and of the changed ones"
mirror noise
for arm in $arms; do
  case $arm in
    gaussian) change="--feature-noise $FEATURE_NOISE" ;;
    navigator) change="--navigator $GEN/augmenters/navigator/navigator.pt" ;;
    steer-*) change="--steer $GEN/augmenters/${arm#steer-}/direction.pt" ;;
  esac
  $LAUNCH extras/feature_noise.py feature-noise --data "$DATA/train" --out "$GEN/noise-$arm" \
    $change $GENERATE
done

both="--both-generated --pair crop flip jitter blur grayscale"
for seed in $SEEDS; do
  arm simclr-baseline "$seed" --mix 0
  for arm in $arms; do
    arm "simclr-$arm" "$seed" --generated "$GEN/noise/view0" "$GEN/noise-$arm" $both
  done
  arm simclr-real "$seed" --generated real $both
done
run python 07_metrics.py report "$RUNS"
