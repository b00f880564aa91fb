#!/usr/bin/env bash
# Sections 4.1.2 and 4.3: which tokens to mask.
#
#   bash recipes/figure_masks.sh                             the two generators that ship, on a CPU
#   DATA=/path/to/imagenet bash recipes/figure_masks.sh      the published MaskGIT as well
#
# Each leaves a sheet, RUNS/NAME/masks.png, and prints how similar the images of each mask are to the
# tokenizer's reconstruction. The dissertation says: at the same share of tokens, adjacent ones change
# more than scattered ones (block and random). bright: the image itself is its mask, so that what is
# bright is predicted. Two minutes on a CPU without DATA.
source "$(dirname "$0")/start.sh"
preflight "$@"
RUNS=${RUNS:-$RUN_ROOT/masks}
SHARE=${SHARE:-0.25}
SAMPLING="--steps 6 --top-k 24 --softmax-temperature 0.67 --workers 0"
if [ -n "${TINY:-}" ]; then FEW_DIGITS="--limit 8" FEW_TILES="--limit 2"; fi

masks() {  # name, images, then further flags of 02
  local out=$RUNS/$1 images=$2 name views=""; shift 2
  declare -A mask=([reconstruction]=none [center]=center [ring]=ring [random]=random:$SHARE
    [block]=block:$SHARE [bright]=file:$images)
  for name in reconstruction center ring random block bright; do
    run python 02_augment.py inpaint --data "$images" --mask "${mask[$name]}" --out "$out/$name" "$@"
    views="$views $out/$name/view0"
  done
  run python 07_metrics.py sheet "$images" $views --out "$out/masks.png" \
    --titles reconstruction center ring random block bright
  for name in center ring random block bright; do
    run python 07_metrics.py ssim "$out/reconstruction/view0" "$out/$name/view0" --workers 0
  done
}

say "the generators that ship: digits and satellite tiles"
run python recipes/datasets.py digits --out "$DATA_ROOT/digits" ${FEW_DIGITS:-}
run python recipes/datasets.py bluemarble --out "$DATA_ROOT/tiles" ${FEW_TILES:---limit 20}
masks digits "$DATA_ROOT/digits/val" --weights recipes/weights/digits.pth $SAMPLING
masks tiles "$DATA_ROOT/tiles/val" --weights recipes/weights/bluemarble.pth $SAMPLING

if [ -n "${DATA:-}" ]; then
  say "the published MaskGIT"
  masks imagenet "$DATA/val"
fi
