#!/usr/bin/env bash
# The demo: what a generated view is, and what an encoder learns from it, in about 4 minutes on two
# slow CPU cores. It leaves sheets of images, RUNS/digits.png and RUNS/tiles.png, and a
# report: tables, RUNS/report.png and RUNS/report.json.
#
#   make demo     or     bash recipes/quickstart.sh
#   GENERATOR=train bash recipes/quickstart.sh    trains the generator of digits, 12 minutes more
#
# A demo that was interrupted is continued by the same command. recipes/digits.sh is the same
# question with five seeds and all controls.
source "$(dirname "$0")/start.sh"
source recipes/digits_settings.sh
RUNS=${RUNS:-$RUN_ROOT/quickstart}
DIGITS=${DIGITS:-$DATA_ROOT/digits}
TILES=${TILES:-$DATA_ROOT/tiles}
SEEDS=${SEEDS:-"0 1"}
SATELLITE=${SATELLITE:-recipes/weights/bluemarble.pth}
LABELS=10 # of a class
PRETRAIN="$PRETRAIN --epochs 5 --size 24" # digits of 32 px, seen at 24: as good, in half the time
SUPERVISED="--epochs 4 --batch-size 64 --learning-rate 0.05"
if [ -n "${TINY:-}" ]; then
  SEEDS="0"
  LABELS=1
  PRETRAIN="$PRETRAIN --epochs 1"
  SUPERVISED="--epochs 1 --batch-size 16"
  FEW_DIGITS="--limit 8"
  FEW_TILES="--limit 2"
fi

cat <<'PLAN'
What will happen, with times on two slow cores:
  1  the images: 5,000 digits                                                            10 s
  2  in-painting: images become tokens; a trained MaskGIT predicts some of them          1 min
  3  encoders: hand-crafted, generated, control, oracle; two seeds each                  3 min
  4  the report: tables, report.png and report.json                                      10 s
PLAN

preflight "$@"
run mkdir -p "$RUNS/logs"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
finish() {  # the jobs in the background
  for job in $(jobs -p); do
    wait "$job" || { tail -n 3 "$RUNS"/logs/*.txt; exit 1; }
  done
}

say "1 of 4: the images"
run python recipes/datasets.py digits --out "$DIGITS" ${FEW_DIGITS:-}

if [ "$GENERATOR" = train ]; then
  say "a generator from nothing: k-means tokens and a label-free transformer"
  run python 00_train_generator.py vqgan --data "$DIGITS/train" --out "$RUNS/vqgan" $TOKENIZER
  run python 00_train_generator.py maskgit --data "$DIGITS/train" --tokenizer "$RUNS/vqgan" \
    --out "$RUNS/maskgit" $TRANSFORMER
  GENERATOR=$RUNS/maskgit
fi

say "2 of 4: in-painting, on satellite tiles in the background: $RUNS/logs/tiles.txt"
paint() {  # images, weights, mask, name of the mirror
  run python 02_augment.py inpaint --data "$1" --weights "$2" --mask "$3" --out "$RUNS/mirrors/$4" \
    $INPAINT --workers 0
}
tiles() {
  run python recipes/datasets.py bluemarble --out "$TILES" ${FEW_TILES:---limit 20}
  paint "$TILES/val" "$SATELLITE" none tiles-none
  for percent in 25 50 75; do
    paint "$TILES/val" "$SATELLITE" "random:0.$percent" "tiles-$percent"
  done
  run python 07_metrics.py sheet "$TILES/val" "$RUNS"/mirrors/tiles-{none,25,50,75}/view0 \
    --images 10 --titles reconstruction "25 %" "50 %" "75 %" --tokens 8 --out "$RUNS/tiles.png"
}
logged() {  # name of the log, then what runs in the background; DRY=1 prints its commands
  local log=$RUNS/logs/$1.txt
  shift
  if [ -n "${DRY:-}" ]; then "$@"; else "$@" > "$log" 2>&1 & fi
}
logged tiles tiles
paint "$DIGITS/train" "$GENERATOR" random:0.5 generated
run python 02_augment.py same-class --data "$DIGITS/train" --size 32 --out "$RUNS/mirrors/oracle"
run python 07_metrics.py sheet "$DIGITS/train" "$RUNS"/mirrors/{generated,oracle}/view0 --images 10 \
  --titles in-painted "oracle: same class" --tokens 8 --out "$RUNS/digits.png"
echo "for comparison: the same network, supervised with all labels"
run python 05_semisup_eval.py --data "$DIGITS" --from-scratch --percent 100 --out "$RUNS/supervised" \
  --architecture resnet10 --small-images --size 24 --crop-scale 0.6 1 --no-flip \
  $SUPERVISED --workers 0
finish

say "3 of 4: encoders, two at a time; the oracle's partner is another digit of the same class"
encoder() {  # arm, seed, then the flags that make the arm
  local name=$1-seed$2 seed=$2
  shift 2
  run python 03_pretrain.py --data "$DIGITS/train" --out "$RUNS/$name" --seed "$seed" $PRETRAIN "$@"
  local baselines=""
  if [ "$name" = baseline-seed0 ]; then baselines=--baselines; fi
  run python 04_linear_eval.py --data "$DIGITS" --backbone "$RUNS/$name" --cache-features \
    --labels-per-class "$LABELS" --draws "$DRAWS" --workers 0 $baselines
}
for seed in $SEEDS; do
  for pair in "baseline generated" "control oracle"; do
    for arm in $pair; do
      case $arm in
        baseline) flags="--mix 0" ;;
        control) flags="--generated real --mix 0.5" ;;
        *) flags="--generated $RUNS/mirrors/$arm --mix 0.5" ;;
      esac
      echo "$arm, seed $seed"
      logged "$arm-$seed" encoder "$arm" "$seed" $flags
    done
    finish
  done
done

say "4 of 4: the report"
run python 07_metrics.py report "$RUNS"
cat <<'NEXT'

What next:
  bash recipes/digits.sh                            the same question with five seeds and all controls
  python 02_augment.py inpaint --help               masks, sampling, your own generator
  bash recipes/figure33_satellite.sh                the satellite study on embedded tiles
NEXT
