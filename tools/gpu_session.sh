#!/usr/bin/env bash
# Ten minutes on a machine with one GPU: what is worth most comes first.
#
#   bash tools/gpu_session.sh RESULTS [CIFAR]          CIFAR: a folder of 32 px images, train/ and val/
#   DEVICE=cpu TINY=1 bash tools/gpu_session.sh RESULTS        do the parts run?
#   PARTS="parity sync" bash tools/gpu_session.sh RESULTS      only these
#
# Parts: parity, pretrain (a baseline, the control, --grad-checkpoint, evaluations), generate (a
# tokenizer, a MaskGIT, a mirror and a pretraining on it), sync, memory, speed, resume, ranks.
# A part that fails or runs out of its time does not end the session. Small files are left in
# RESULTS: the lines of each part (PART.txt), verdicts (PART.json), logs of the trainings (*.jsonl).
# Nothing is fetched, and only what is installed is used: without diffusers its checks are skipped.
set -u
cd "$(dirname "$0")/.."
RESULTS=$(mkdir -p "$1" && cd "$1" && pwd)
CIFAR=${2:-}
DEVICE=${DEVICE:-cuda}
PARTS=${PARTS:-parity pretrain generate sync memory speed resume ranks}
WORK=${WORK:-$(mktemp -d)}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 GCL_WEIGHTS=${GCL_WEIGHTS:-$WORK/weights}
EPOCHS=${EPOCHS:-10}
PRETRAIN="--method simclr --preset cifar --in-memory --warmup-epochs 1 --log-every 20"
TOKENIZER="--size 32 --filters 128 --multipliers 1 2 --unshuffle 2 --blocks 2 --codes 1024
  --code-dim 64 --gan-weight 0 --perceptual-weight 0 --learning-rate 5e-4 --batch-size 128"
TRANSFORMER="--layers 8 --dim 384 --heads 6 --batch-size 256 --learning-rate 5e-4"
INPAINT="--mask random:0.5 --steps 6 --top-k 24 --batch-size 250"
WORKERS=""
if [ -n "${TINY:-}" ]; then
  WORKERS="--workers 0"
  EPOCHS=1
  PRETRAIN="$PRETRAIN --backbone resnet10 --projector 16-16 --batch-size 8"
  TOKENIZER="$TOKENIZER --filters 16 --groups 4 --blocks 1 --codes 16 --batch-size 8"
  TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 8"
  INPAINT="$INPAINT --steps 2 --batch-size 8"
fi
if [ -z "$CIFAR" ]; then
  CIFAR=$WORK/images
  python3 tools/gpu_images.py "$CIFAR" ${TINY:+--each 8}
fi

part() {  # name, seconds, command: its output is shown, and kept
  local name=$1 seconds=$2 begin=$SECONDS
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" 2>&1 | tee -a "$RESULTS/$name.txt"
  echo "== $name ended with ${PIPESTATUS[0]} after $((SECONDS - begin)) s" | tee -a "$RESULTS/$name.txt"
}
check() {  # section of gpu_check.py, seconds
  part "$1" "$2" python3 tools/gpu_check.py "$1" --device "$DEVICE" --out "$RESULTS/$1.json"
}
stage() {  # part, script, arguments
  local name=$1
  shift
  part "$name" 200 python3 "$@" --device "$DEVICE" $WORKERS
}
keep() {  # run folder: its log
  if [ -e "$WORK/$1/log.jsonl" ]; then cp "$WORK/$1/log.jsonl" "$RESULTS/$1.jsonl"; fi
}
pretrain() {  # name, epochs, more arguments
  local name=$1 epochs=$2
  shift 2
  stage pretrain 03_pretrain.py --data "$CIFAR/train" --out "$WORK/$name" --epochs "$epochs" \
    $PRETRAIN "$@"
  keep "$name"
}

python3 -c "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
for name in $PARTS; do
  case $name in
    parity) check parity 150 ;;
    pretrain)
      pretrain baseline "$EPOCHS"
      pretrain control 1 --generated real --grad-checkpoint
      stage pretrain 04_linear_eval.py --data "$CIFAR" --backbone "$WORK/baseline" \
        --cache-features --knn --baselines
      ;;
    generate)
      stage generate 00_train_generator.py vqgan --data "$CIFAR/train" --out "$WORK/vqgan" \
        $TOKENIZER --epochs 3
      stage generate 00_train_generator.py maskgit --data "$CIFAR/train" \
        --tokenizer "$WORK/vqgan" --out "$WORK/maskgit" $TRANSFORMER --epochs 5
      stage generate 02_augment.py inpaint --data "$CIFAR/train" --weights "$WORK/maskgit" \
        --out "$WORK/mask50" $INPAINT
      keep vqgan
      keep maskgit
      pretrain inpainted 3 --generated "$WORK/mask50"
      ;;
    sync) check sync 150 ;;
    memory) check memory 150 ;;
    speed) check speed 150 ;;
    resume) check resume 240 ;;
    ranks) check ranks 600 ;;
  esac
done
