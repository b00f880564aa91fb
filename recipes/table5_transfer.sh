#!/usr/bin/env bash
# Table 5 (section 5.5): do the features serve other data sets?
#
#   DATA=/path/to/imagenet PLACES=/path/to/places365 VOC=/path/to/voc COCO=/path/to/coco \
#     bash recipes/table5_transfer.sh
#
# The baseline, the best arm of each strategy in Table 4 and the two controls of the best one, frozen,
# on Places365, VOC2007 and COCO. python 06_transfer.py --help shows the layouts of the three folders.
# Encoders that Table 4 has trained are used. The dissertation calls all its numbers top-1; for VOC07
# and COCO mean average precision is usual, and both are printed. VOC07's features are pooled as in
# VISSL (--pool 6), whose protocol is the usual one.
# Estimated on 4 x RTX 3090: 207 hours (generation 55, pretraining 151, evaluation 0.4)
# and 605 GB of disk.
source "$(dirname "$0")/imagenet.sh"
SEEDS=${SEEDS:-"0"}
ARMS=${ARMS:-"baseline noise:0.25 outpaint:0.5 inpaint:0.5 real:0.5 reconstruction:0.5"}
SETS=${SETS:-"places365 voc07 coco"}
POOL=6  # VISSL's for 224 px
if [ -n "${TINY:-}" ]; then
  POOL=2  # a view of 32 px leaves a feature map of 4 x 4
  ARMS="baseline inpaint:0.5" PLACES=$DATA_ROOT/places365 VOC=$DATA_ROOT/voc COCO=$DATA_ROOT/coco
fi
declare -A folder=([places365]=${PLACES:-} [voc07]=${VOC:-} [coco]=${COCO:-})
for set in $SETS; do
  : "${folder[$set]:?is to name the folder of $set (PLACES, VOC, COCO), or leave it out of SETS}"
done

transfer() {  # name of the arm, seed
  for set in $SETS; do
    pool=""
    if [ "$set" = voc07 ]; then pool="--pool $POOL"; fi
    $LAUNCH 06_transfer.py "$set" --data "${folder[$set]}" --backbone "$RUNS/$1-seed$2" --seed "$2" \
      $pool $TRANSFER
  done
}
EVALUATIONS=transfer
for arm in $ARMS; do
  case $arm in baseline | real:*) ;; *) mirror "${arm%:*}" ;; esac
done
for seed in $SEEDS; do
  for arm in $ARMS; do
    case $arm in
      baseline) arm baseline "$seed" --mix 0 ;;
      *) mixed "$seed" "${arm%:*}" "${arm#*:}" ;;
    esac
  done
done
run python 07_metrics.py report "$RUNS"
