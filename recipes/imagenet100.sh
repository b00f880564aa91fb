#!/usr/bin/env bash
# ImageNet-100: links the 100 classes of the list in imagenet100.txt (Figures 30 and 31).
#
#   DATA=/path/to/imagenet bash recipes/imagenet100.sh data/imagenet100
#
# Reads DATA/train/SYNSET and DATA/val/SYNSET. Makes the links OUT/train/SYNSET and OUT/val/SYNSET,
# which take no disk space. The dissertation names no list. This is the one of Contrastive Multiview
# Coding (Tian et al. 2019, arXiv:1906.05849; HobbitLong/CMC, imagenet100.txt), which others use:
# 126,689 training and 5,000 validation images.
source "$(dirname "$0")/start.sh"
: "${DATA:?is to name the folder of ImageNet, with train/ and val/ in it}"
OUT=${1:-$DATA_ROOT/imagenet100}
if [ -n "${DRY:-}" ]; then exit; fi  # its command is printed by the recipe that calls it
from=$(cd "$DATA" && pwd)
for split in train val; do
  linked=0
  while read -r synset; do
    if [ -d "$from/$split/$synset" ]; then
      if [ -z "${CHECK:-}" ]; then
        mkdir -p "$OUT/$split"
        ln -sfn "$from/$split/$synset" "$OUT/$split/$synset"
      fi
      linked=$((linked + 1))
    fi
  done < <(grep -v '^#' recipes/imagenet100.txt)
  echo "$OUT/$split: $linked of 100 classes"
  if [ "$linked" -lt 100 ] && [ -z "${TINY:-}" ]; then
    echo "$DATA/$split lacks $((100 - linked)) of the 100 classes: DATA must be ImageNet with folders" \
      "n01440764 ..." >&2
    exit 1
  fi
done
