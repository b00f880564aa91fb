#!/usr/bin/env bash
# The question of recipes/cifar10.sh on one GPU, with all 50,000 training images: 12 minutes.
#
#   bash tools/gpu_study.sh DATA GENERATORS RUNS [PART ...]
#   DEVICE=cpu TINY=1 bash tools/gpu_study.sh DATA GENERATORS RUNS      do the parts run?
#
# DATA has 32 px images in train/CLASS and val/CLASS. GENERATORS has the maskgit and the ddpm that
# `BUDGET=cpu bash recipes/cifar10.sh` trains. RUNS gets the mirrors, the encoders and the report.
# Parts: mirrors, probe (pairs a second of one training and of JOBS at a time), encoders. Seed by
# seed, JOBS trainings share the card; the arms of a seed begin in the order of ARMS. Nothing begins
# later than LAST seconds after the start. What is finished is skipped when the command is repeated.
set -u
cd "$(dirname "$0")/.."
DATA=${1:?the folder of the images}
GENERATORS=${2:?the folder of the generators}
RUNS=${3:?where the runs go}
shift 3
PARTS=${*:-mirrors probe encoders}
export DATA GENERATORS RUNS
export DEVICE=${DEVICE:-cuda} EPOCHS=${EPOCHS:-25} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
JOBS=${JOBS:-4}
ARMS=${ARMS:-control oracle keep10}
LATER=${LATER-diffusion0.1}
SEEDS=${SEEDS:-0 1 2}
export LAST=${LAST:-86400} BEGAN=$(date +%s) LABELS=10 DRAWS=10 WORKERS=3
PRETRAIN="--method simclr --preset cifar --in-memory --batch-size 512 --warmup-epochs 4 --mix 0.5"
PRETRAIN="$PRETRAIN --log-every 20"
INPAINT="--steps 6 --top-k 24 --softmax-temperature 0.67 --batch-size 1000"
if [ -n "${TINY:-}" ]; then
  EPOCHS=1 LABELS=2 DRAWS=2 WORKERS=0
  PRETRAIN="$PRETRAIN --backbone resnet10 --projector 16-16 --batch-size 8 --warmup-epochs 0"
fi
export PRETRAIN INPAINT

ago() { echo $(($(date +%s) - BEGAN)); }
stage() {  # script, arguments: what it says is shown when it ends, without its progress bars
  local log
  log=$(mktemp)
  python3 "$@" --device "$DEVICE" --workers "$WORKERS" > "$log" 2>&1 || echo "== failed: $*" >> "$log"
  tr "\r" "\n" < "$log" | grep -Ev "(/s|s/it)[],]|^$"
  rm "$log"
}
mirror() {  # arm
  local to=(--data "$DATA/train" --out "$RUNS/mirrors/$1")
  case $1 in
    oracle) stage 02_augment.py same-class "${to[@]}" --size 32 ;;
    keep*)
      stage 02_augment.py inpaint "${to[@]}" --weights "$GENERATORS/maskgit" $INPAINT \
        --mask "random:0.${1#keep}" --composite
      ;;
    diffusion*)
      stage 02_augment.py diffusion "${to[@]}" --model "$GENERATORS/ddpm" \
        --strength "${1#diffusion}" --store-size 32 --batch-size 1000
      ;;
  esac
}
pretrain() {  # arm, run folder, epochs, seed
  local images
  case $1 in
    control) images=real ;;
    diffusion*) images=$RUNS/mirrors/$1/strength${1#diffusion} ;;
    *) images=$RUNS/mirrors/$1 ;;
  esac
  stage 03_pretrain.py --data "$DATA/train" --out "$2" --generated "$images" --seed "$4" \
    $PRETRAIN --epochs "$3"
}
arm() {  # arm, seed: the encoder and its evaluations
  local name=$RUNS/simclr-$1-seed$2
  if [ "$(ago)" -gt "$LAST" ]; then return; fi
  pretrain "$1" "$name" "$EPOCHS" "$2"
  stage 04_linear_eval.py --data "$DATA" --backbone "$name" --cache-features --knn
  stage 04_linear_eval.py --data "$DATA" --backbone "$name" --cache-features \
    --labels-per-class "$LABELS" --draws "$DRAWS"
  echo "== $1, seed $2: ended $(ago) s after the start"
}
speed() {  # folder of a run: its last line
  tail -n 1 "$1/log.jsonl" | grep -o '"images_per_second": [0-9]*'
}
each() {  # number at a time, function: it is called with the words of each line
  xargs -P "$1" -L 1 bash -c '"$@"' _ "$2"
}
export -f ago stage mirror pretrain arm

for part in $PARTS; do
  echo "== $part"
  case $part in
    mirrors) printf '%s\n' $ARMS $LATER | grep -v control | each "$JOBS" mirror ;;
    probe)
      probe=$(mktemp -d)
      echo "control $probe/alone 1 0" | each 1 pretrain
      for job in $(seq "$JOBS"); do echo "control $probe/$job 1 0"; done | each "$JOBS" pretrain
      for run in "$probe"/*; do echo "$(basename "$run") $(speed "$run")"; done
      ;;
    encoders)
      {
        for seed in $SEEDS; do
          for name in $ARMS; do echo "$name $seed"; done
        done
        for seed in $SEEDS; do
          for name in $LATER; do echo "$name $seed"; done
        done
      } | each "$JOBS" arm
      python3 07_metrics.py report "$RUNS" --gate 3
      ;;
  esac
  echo "== $part: ended $(ago) s after the start"
done
