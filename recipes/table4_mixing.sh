#!/usr/bin/env bash
# Table 4 (section 5.2): how often should a view be generated?
#
#   DATA=/path/to/imagenet bash recipes/table4_mixing.sh
#
# VICReg, ResNet-50, 100 epochs, batch 800. A generated view gets a crop on top, any other view the
# whole hand-crafted set. The dissertation has no controls. These run beside its arms:
#   real            the real image where the generated one would stand: same resize, crop, pairing
#   reconstruction  the tokenizer's reconstruction of it, with nothing masked
# and, at gamma 0.5 (CONTROLS):
#   random-label    in-painting with a class drawn at random: the published MaskGIT is given the true
#   one-label       one, so that labels enter the pretraining; with one class for all images none do
#   oracle          another image of the same class: a ceiling for any generator, it uses the labels
#   neighbour       the other image that the baseline's encoder finds most similar, without labels;
#                   the search holds all features in memory, 10 GB a process
#   second-view     in-painting in the place of the second view; in all other arms it is the first
#   diffusion-mask  in-painting of the same centre by SDXL-Turbo without captions, so without labels:
#                   is it in-painting, or MaskGIT's labels? On ImageNet-100 only, unless it is named
#   equal-time      the baseline for a quarter more epochs, which is what in-painting costs
# A generated view is also a less coloured one. What a control gains over the baseline is therefore
# no gain of generation. Out-painting has nine views and takes most of the time and of the disk.
# Estimated on 4 x RTX 3090: 872 hours (generation 66, pretraining 688, evaluation 118)
# and 809 GB of disk.
source "$(dirname "$0")/imagenet.sh"
STRATEGIES=${STRATEGIES:-"noise inpaint outpaint"}
GAMMAS=${GAMMAS:-"0.25 0.5 0.75 1"}
SEEDS=${SEEDS:-"0"}
CONTROL_GAMMAS=${CONTROL_GAMMAS:-$GAMMAS}
also=""
if [ "$STUDY" = imagenet100 ]; then also=diffusion-mask; fi
CONTROLS=${CONTROLS-"random-label one-label oracle neighbour second-view equal-time $also"}
EQUAL_TIME=${EQUAL_TIME:-"--epochs 125"}
if [ -n "${TINY:-}" ]; then
  STRATEGIES=inpaint GAMMAS=0.5 CONTROL_GAMMAS=0.5 CONTROLS=random-label
fi

say "generated images, and the tokenizer's reconstructions"
for strategy in $STRATEGIES reconstruction; do mirror "$strategy"; done

control_mirror() {  # the images of one of CONTROLS; the neighbours are those of the first baseline
  local words
  case $1 in
    random-label) words="inpaint --label random $MASKGIT" ;;
    one-label) words="inpaint --label 0 $MASKGIT" ;;
    oracle) words="same-class" ;;
    diffusion-mask) words="diffusion --mask center --strength 1 --no-caption $SDXL" ;;
    neighbour) words="neighbour --backbone $RUNS/baseline-seed${SEEDS%% *}" ;;
  esac
  $LAUNCH 02_augment.py $words --data "$DATA/train" --out "$GEN/$1" $GENERATE
}
EVALUATIONS="linear ${SEMIS-semisup}"  # SEMIS= leaves 1 % and 10 % out
for seed in $SEEDS; do
  arm baseline "$seed" --mix 0
  for gamma in $GAMMAS; do
    for strategy in $STRATEGIES; do mixed "$seed" "$strategy" "$gamma"; done
  done
  for gamma in $CONTROL_GAMMAS; do
    mixed "$seed" real "$gamma"
    mixed "$seed" reconstruction "$gamma"
  done
  for control in $CONTROLS; do
    case $control in
      equal-time) PRETRAIN="$PRETRAIN $EQUAL_TIME" arm baseline-equal-time "$seed" --mix 0 ;;
      second-view)
        arm second-view-gamma0.5-crop "$seed" --generated "$GEN/inpaint" --mix 0.5 --pair crop \
          --replace second
        ;;
      diffusion-mask)
        control_mirror diffusion-mask
        arm diffusion-mask-gamma0.5-crop "$seed" --generated "$GEN/diffusion-mask/strength1" \
          --mix 0.5 --pair crop
        ;;
      *)
        control_mirror "$control"
        mixed "$seed" "$control" 0.5
        ;;
    esac
  done
done
run python 07_metrics.py report "$RUNS"
