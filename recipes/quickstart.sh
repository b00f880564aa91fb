#!/usr/bin/env bash
# The whole chain on NASA's Blue Marble, on two CPU cores in some eight minutes: tiles -> VQGAN ->
# MaskGIT -> in-painting -> three pretrainings -> linear evaluation -> report.md and report.png.
#
#   make demo     or     bash recipes/quickstart.sh
#
# A demo that was interrupted is continued by the same command. It shows that the chain runs. For
# numbers that mean something, with seeds and all controls, run recipes/figure33_satellite.sh.
source "$(dirname "$0")/start.sh"
RUNS=${RUNS:-$RUN_ROOT/quickstart}
DATA=${DATA:-$DATA_ROOT/bluemarble}
MASK=0.5
EPOCHS=${EPOCHS:-2}
TOKENIZER="--filters 64 --multipliers 1 --unshuffle 4 --blocks 1 --codes 512 --code-dim 16
  --groups 16 --gan-weight 0 --perceptual-weight 0 --learning-rate 1e-3 --batch-size 64 --epochs 2"
TRANSFORMER="--layers 3 --dim 64 --heads 2 --ema 0.98 --learning-rate 1e-3 --batch-size 64
  --epochs 1"
PRETRAIN="--backbone resnet10 --small-images --size 32 --store-size 32 --optimizer adamw --learning-rate 2e-3
  --warmup-epochs 1 --batch-size 256 --projector 512-512-512 --epochs $EPOCHS --log-every 5"
if [ -n "${TINY:-}" ]; then
  LIMIT="--limit 96"
  TOKENIZER="$TOKENIZER --filters 16 --groups 4 --codes 32 --batch-size 16 --epochs 1"
  TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 16 --epochs 1"
  PRETRAIN="$PRETRAIN --batch-size 32 --projector 32-32 --epochs 1"
fi

say "1 of 6: tiles of 32 px, labelled by climate"
run python recipes/bluemarble.py --out "$DATA" ${LIMIT:-}

say "2 of 6: a tokenizer (VQGAN), 64 tokens a tile"
run python 00_train_generator.py vqgan --data "$DATA/train" --out "$RUNS/vqgan" --size 32 \
  $TOKENIZER --workers 0

say "3 of 6: a label-free transformer (MaskGIT) that fills in masked tokens"
run python 00_train_generator.py maskgit --data "$DATA/train" --tokenizer "$RUNS/vqgan" \
  --out "$RUNS/maskgit" $TRANSFORMER --workers 0

say "4 of 6: in-painting: half of each tile's tokens masked and predicted"
run python 02_augment.py inpaint --data "$DATA/train" --weights "$RUNS/maskgit" \
  --mask "random:$MASK" --steps 5 --batch-size 64 --out "$RUNS/inpaint" --workers 0

say "5 of 6: three encoders, side by side: hand-crafted views; generated views; their control"
export OMP_NUM_THREADS=$(( ($(nproc) + 2) / 3 ))
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
arm() {  # name, then the flags that make the arm
  local name=$1; shift
  run python 03_pretrain.py --data "$DATA/train" --out "$RUNS/$name" $PRETRAIN --workers 0 "$@"
  local baselines=""
  if [ "$name" = control ]; then baselines=--baselines; fi
  run python 04_linear_eval.py --data "$DATA" --backbone "$RUNS/$name" --out "$RUNS/linear-$name" \
    --cache-features --knn --workers 0 $baselines
}
mkdir -p "$RUNS"
arm baseline --mix 0 > "$RUNS/baseline.txt" 2>&1 &
arm generated --generated "$RUNS/inpaint" > "$RUNS/generated.txt" 2>&1 &
arm control --generated real  # the bar you see; the two others run along
for job in $(jobs -p); do
  wait "$job" || { tail -n 3 "$RUNS/baseline.txt" "$RUNS/generated.txt"; exit 1; }
done

say "6 of 6: the table and the picture"
run python 07_metrics.py report "$RUNS"
run python recipes/quickstart_picture.py "$DATA" "$RUNS"
