#!/usr/bin/env bash
# Sections 4.1.2 and 4.3: which tokens to mask, and why a transformer has to fill them.
#
#   bash recipes/figure_masks.sh                             the two generators that ship, on a CPU
#   DATA=/path/to/imagenet bash recipes/figure_masks.sh      the published MaskGIT as well
#
# Each leaves a sheet, RUNS/NAME/masks.png, and prints what the masks change. The dissertation says:
#   codes drawn at random give static; codes drawn from the codebook's frequencies only blur;
#   at the same share of tokens, adjacent ones change more than scattered ones
# The table has a number for each of the three. Two minutes on a CPU without DATA.
source "$(dirname "$0")/start.sh"
preflight "$@"
RUNS=${RUNS:-$RUN_ROOT/masks}
SHARE=${SHARE:-0.25}
MEASURED=${MEASURED:-}  # further flags, such as --images 1000
SAMPLING="--steps 6 --top-k 24 --softmax-temperature 0.67"
if [ -n "${TINY:-}" ]; then FEW_DIGITS="--limit 8" FEW_TILES="--limit 16"; fi

say "the generators that ship: digits and satellite tiles"
run python recipes/datasets.py digits --out "$DATA_ROOT/digits" ${FEW_DIGITS:-}
run python recipes/datasets.py bluemarble --out "$DATA_ROOT/tiles" ${FEW_TILES:---limit 240}
shipped() {  # images, weights
  run python recipes/masks.py --data "$DATA_ROOT/$1/val" --weights "recipes/weights/$2.pth" \
    --out "$RUNS/$1" --share "$SHARE" $SAMPLING $MEASURED
}
shipped digits digits
shipped tiles bluemarble

if [ -n "${DATA:-}" ]; then
  say "the published MaskGIT"
  run python recipes/masks.py --data "$DATA/val" --out "$RUNS/imagenet" --share "$SHARE" \
    $MEASURED
fi
