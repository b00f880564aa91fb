#!/usr/bin/env bash
# Figures 2, 13, 15, 22, 24, 26, 27 and 28: samples of every augmentation, on the same few images.
#
#   DATA=/path/to/imagenet bash recipes/figures_sheets.sh
#
# Leaves RUNS/figure2.png and so on:
#    2   original, noise-based, cropped, color jitter
#   13   the hand-crafted augmentations
#   15   Gaussian noise, steering, navigator; where table2_features.sh has trained the last two
#   22   noise-based: five draws each
#   24   in-painting: the centre, by MaskGIT and, as 24b, by SDXL-Turbo
#   26   out-painting: what becomes of the nine positions, beside the original
#   27   out-painting: the nine positions, and below each what becomes of it
#   28   diffusion at growing strengths; the captions are in captions.jsonl beside the mirrors
# Figure 32, the satellite images, comes with figure33_satellite.sh. Figure 26 is called in-painting
# in the text's caption; it stands in the section on out-painting. COUNT images of as many classes
# are taken from DATA/val. The generators are the published ones. Minutes on one GPU.
source "$(dirname "$0")/imagenet.sh"
COUNT=${COUNT:-6}
IMAGES=$GEN/figures/images
MIRRORS=$GEN/figures

say "$COUNT images of as many classes"
link_images() {  # --out FOLDER: links to one image each of COUNT classes
  local out=$2 from classes files class step i
  from=$(cd "$DATA/val" && pwd)
  classes=("$from"/*/)
  step=$((${#classes[@]} / COUNT))
  for ((i = 0; i < COUNT && i < ${#classes[@]}; i++)); do
    class=$(basename "${classes[$((i * (step > 0 ? step : 1)))]}")
    files=("$from/$class"/*)
    mkdir -p "$out/$class"
    ln -sfn "${files[0]}" "$out/$class/$(basename "${files[0]}")"
  done
}
run link_images --out "$IMAGES"

make() {  # strategy, name of the mirror, then further flags
  local strategy=$1 name=$2; shift 2
  run python 02_augment.py "$strategy" --data "$IMAGES" --out "$MIRRORS/$name" "$@" $GENERATE
}
named() {  # number of the figure, name of the mirror whose samples.png it is
  run cp "$MIRRORS/$2/samples.png" "$RUNS/figure$1.png"
}
sheet() {  # number of the figure, the titles, then the view folders
  local number=$1 titles=$2; shift 2
  run python 07_metrics.py sheet "$IMAGES" "$@" --titles $titles --out "$RUNS/figure$number.png"
}
run mkdir -p "$RUNS"

say "hand-crafted augmentations"
run python 07_metrics.py sheet "$IMAGES" --out "$RUNS/figure13.png"
make crop crop
make jitter jitter

say "noise-based"
make noise noise --views 5
named 22 noise
sheet 2 "noise-based cropping color-jitter" "$MIRRORS"/{noise,crop,jitter}/view0
if [ -e "$GEN/augmenters/zoom/direction.pt" ] && [ -e "$GEN/augmenters/navigator/navigator.pt" ]; then
  change() {  # name of the mirror, then the flags that change the feature map
    local name=$1; shift
    run python extras/feature_noise.py feature-noise --data "$IMAGES" --out "$MIRRORS/$name" "$@" $GENERATE
  }
  change gaussian --feature-noise 0.01
  change zoom --steer "$GEN/augmenters/zoom/direction.pt"
  change navigator --navigator "$GEN/augmenters/navigator/navigator.pt"
  sheet 15 "G(z,f) Gaussian-noise steering-zoom navigator" \
    "$MIRRORS"/{noise,gaussian,zoom,navigator}/view0
fi

say "in- and out-painting"
make inpaint inpaint $MASKGIT
named 24 inpaint
make outpaint outpaint $MASKGIT
named 26 outpaint
positions="upper-left upper-center upper-right center-left center center-right lower-left"
sheet 27 "$positions lower-center lower-right" "$MIRRORS"/outpaint/view{0,1,2,3,4,5,6,7,8} --tokens 16

say "diffusion"
run python 01_caption.py --data "$IMAGES" --out "$MIRRORS/captions.jsonl" $BLIP
make diffusion diffusion --captions "$MIRRORS/captions.jsonl" --steps 10 \
  --strength 0.1 0.2 0.3 0.4 0.5 $SDXL
named 28 diffusion
make diffusion diffusion-mask --mask center --strength 1 --no-caption $SDXL
named 24b diffusion-mask
