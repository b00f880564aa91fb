#!/usr/bin/env bash
# Section 5.7 and Figure 33: in-painting with label-free generators on satellite images.
#
#   bash recipes/figure33_satellite.sh               about 45 minutes on one CPU core, embedded tiles
#   DATA=/path/to/wildfire RUNS=runs/wildfire bash recipes/figure33_satellite.sh      the study itself
#
# DATA is the Wildfire Prediction Dataset as it comes (train/ valid/ test/, 70/15/15 %). Its images of
# 350 px are first resized to 128 px, once for all stages (into RESIZED), as in the dissertation: real
# views are then cut from the same pixels as generated ones. The arms are compared on valid. Only the
# best one of them, the baseline and its controls are reported on test.
# Of the controls the dissertation has the reconstruction (mask 0). Both run beside its arms:
#   control         the real image where the generated one would stand (same resize, crop, storage)
#   reconstruction  the tokenizer's reconstruction, nothing masked
# A seed trains the encoder and the linear layer anew; the generator and its images are made once,
# with seed 0. The costs are those of the study itself.
# Estimated on 4 x RTX 3090: 99 hours (generation 87, pretraining 10, evaluation 1.8)
# and 5.0 GB of disk.
source "$(dirname "$0")/start.sh"
preflight "$@"
if [ -n "${DATA:-}" ]; then
  RUNS=${RUNS:-runs/wildfire}
  VAL=valid
  TEST=test
  MASKS=${MASKS:-"0.25 0.5 0.75"}
  GAMMAS=${GAMMAS:-"0.25 0.5 0.75 1"}
  SEEDS=${SEEDS:-"0"}
  EPOCHS=${EPOCHS:-100}
  LONG=${LONG:-1000}
  LONG_MASK=0.25
  LONG_GAMMA=0.75
  TOKENIZER=""
  TRANSFORMER=""
  INPAINT="--batch-size 64"
  PRETRAIN="--size 128 --store-size 128 --batch-size 800 ${PRETRAIN:-}"
  EVAL="--size 128 --workers 8"
  SUPERVISED="--size 128"
  RESIZED=${RESIZED:-$DATA_ROOT/wildfire-128}
  say "the images at 128 px"
  run python recipes/datasets.py resize --data "$DATA" --out "$RESIZED" --size 128
  DATA=$RESIZED
else
  DATA=$DATA_ROOT/bluemarble
  RUNS=${RUNS:-$RUN_ROOT/satellite}
  VAL=val
  TEST=""
  MASKS=${MASKS:-"0.25 0.5"}
  GAMMAS=${GAMMAS:-"0.5"}
  SEEDS=${SEEDS:-"0 1 2"}
  EPOCHS=${EPOCHS:-4}
  LONG=${LONG:-}
  LABELS=${LABELS:-"10"}
  ORACLE=1  # another tile of the same class: can this budget tell a good partner from a bad one?
  BASELINES=--baselines
  TOKENIZER="--size 32 --multipliers 1 --unshuffle 4 --codes 512 --code-dim 48 --epochs 0
    --perceptual-weight 0 --gan-weight 0 --workers 0"
  TRANSFORMER="--layers 3 --dim 96 --heads 3 --ema 0.999 --learning-rate 2e-3 --batch-size 64
    --epochs 12 --workers 0"
  INPAINT="--steps 6 --top-k 24 --softmax-temperature 0.67 --batch-size 64 --workers 0"
  PRETRAIN="--method simclr --temperature 0.2 --backbone resnet10 --small-images --size 32
    --store-size 32 --view-preset satellite --in-memory --optimizer adamw --learning-rate 1.77e-4
    --weight-decay 1e-4 --warmup-epochs 1 --batch-size 128 --projector 256-128 --log-every 62
    --workers 0"
  EVAL="--cache-features --knn --workers 0"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  SUPERVISED="--small-images --size 32 --architecture resnet10 --workers 0"
  if [ -n "${TINY:-}" ]; then
    LIMIT="--limit 8"
    SEEDS="0"
    MASKS=0.25
    GAMMAS=0.5
    CONTROL_GAMMAS=""
    ORACLE=""
    EPOCHS=1
    TOKENIZER="$TOKENIZER --codes 32"
    LABELS="1"
    TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 16 --epochs 1"
    PRETRAIN="$PRETRAIN --batch-size 32 --projector 32-32 --warmup-epochs 0"
  fi
  run python recipes/datasets.py bluemarble --out "$DATA" ${LIMIT:-}
fi
CONTROL_GAMMAS=${CONTROL_GAMMAS-$GAMMAS}

say "the generator: trained on the images of train alone, without labels"
$LAUNCH 00_train_generator.py vqgan --data "$DATA/train" --out "$RUNS/vqgan" $TOKENIZER
$LAUNCH 00_train_generator.py maskgit --data "$DATA/train" --tokenizer "$RUNS/vqgan" \
  --out "$RUNS/maskgit" $TRANSFORMER

say "one generated image for each image and mask; mask 'none' is the reconstruction"
for mask in none $MASKS; do
  kind=random:$mask
  if [ "$mask" = none ]; then kind=none; fi
  $LAUNCH 02_augment.py inpaint --data "$DATA/train" --weights "$RUNS/maskgit" --mask "$kind" \
    --out "$RUNS/mask-$mask" $INPAINT
done

if [ -n "${ORACLE:-}" ]; then
  run python 02_augment.py same-class --data "$DATA/train" --out "$RUNS/oracle" --size 32
fi

columns=""
for mask in none $MASKS; do columns="$columns $RUNS/mask-$mask/view0"; done
run python 07_metrics.py sheet "$DATA/train" $columns --titles none $MASKS \
  --out "$RUNS/figure32.png"

arm() {  # name, seed, epochs, then the flags that make the arm
  local name=$1 seed=$2 epochs=$3 more=""; shift 3
  if [ "$name" = baseline ]; then more=${BASELINES:-}; fi
  say "$name, seed $seed"
  $LAUNCH 03_pretrain.py --data "$DATA/train" --out "$RUNS/$name-seed$seed" --seed "$seed" \
    --epochs "$epochs" $PRETRAIN "$@"
  $LAUNCH 04_linear_eval.py --data "$DATA" --eval-on "$VAL" --backbone "$RUNS/$name-seed$seed" \
    --seeds "$seed" --out "$RUNS/linear-$name-seed$seed" $more $EVAL
  for labels in ${LABELS:-}; do
    $LAUNCH 04_linear_eval.py --data "$DATA" --eval-on "$VAL" --backbone "$RUNS/$name-seed$seed" \
      --labels-per-class "$labels" $more $EVAL
  done
}
for seed in $SEEDS; do
  arm baseline "$seed" "$EPOCHS" --mix 0
  for gamma in $GAMMAS; do
    for mask in $MASKS; do
      arm "mask$mask-gamma$gamma" "$seed" "$EPOCHS" --generated "$RUNS/mask-$mask" --mix "$gamma"
    done
  done
  for gamma in $CONTROL_GAMMAS; do
    arm "control-gamma$gamma" "$seed" "$EPOCHS" --generated real --mix "$gamma"
    arm "reconstruction-gamma$gamma" "$seed" "$EPOCHS" --generated "$RUNS/mask-none" --mix "$gamma"
  done
  if [ -n "${ORACLE:-}" ]; then
    arm "oracle-gamma0.5" "$seed" "$EPOCHS" --generated "$RUNS/oracle" --mix 0.5
  fi
done

if [ -n "$LONG" ]; then
  say "supervised, and the long runs"
  for epochs in "$EPOCHS" "$LONG"; do
    $LAUNCH 05_semisup_eval.py --from-scratch --percent 100 --data "$DATA" --eval-on "$VAL" \
      --epochs "$epochs" --out "$RUNS/supervised-$epochs" $SUPERVISED
  done
  arm "long-mask$LONG_MASK-gamma$LONG_GAMMA" 0 "$LONG" --generated "$RUNS/mask-$LONG_MASK" \
    --mix "$LONG_GAMMA"
  arm "long-control-gamma$LONG_GAMMA" 0 "$LONG" --generated real --mix "$LONG_GAMMA"
  arm "long-baseline" 0 "$LONG" --mix 0
fi
run python 07_metrics.py report "$RUNS"
if [ -n "$TEST" ]; then
  echo "The table above is on $VAL. For the chosen arm, its controls and the baseline:"
  echo "  python 04_linear_eval.py --data $DATA --eval-on $TEST --backbone $RUNS/ARM" \
    "--out $RUNS/test-ARM $EVAL"
fi
