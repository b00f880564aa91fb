#!/usr/bin/env bash
# Does a generated view help where labels are few? 5,000 digits, five seeds, on a CPU.
#
#   bash recipes/digits.sh                    37 minutes on one core
#   SEEDS="0" bash recipes/digits.sh          one seed
#   GENERATOR=train bash recipes/digits.sh    with a generator trained from nothing, 12 minutes more
#   DRAW=1 bash recipes/digits.sh             other generated images, other labelled digits
#
# SimCLR, a 10-layer ResNet, 4 epochs of 4,000 digits; half of the pairs have a view from the arm:
#   baseline         hand-crafted views only
#   control          the real image where the generated one would stand
#   reconstruction   the tokenizer's reconstruction, nothing masked
#   mask25, mask50   in-painted: 25 % or 50 % of the tokens are predicted
#   oracle           another digit of the same class: no generator can be better, it uses the labels
# Frozen features, logistic regression on 1, 4 and 10 labels a class (20 draws) and on all labels.
# A seed trains the encoder anew; the generator and its images are made once.
source "$(dirname "$0")/start.sh"
preflight "$@"
source recipes/digits_settings.sh
DATA=${DATA:-$DATA_ROOT/digits}
RUNS=${RUNS:-$RUN_ROOT/digits}
SEEDS=${SEEDS:-"0 1 2 3 4"}
ARMS=${ARMS:-"baseline control reconstruction mask25 mask50 oracle"}
LABELS=${LABELS:-"1 4 10"}
GAMMA=${GAMMA:-0.5}
DRAW=${DRAW:-0} # the seed of the generated images and of the few labels
EVAL="--cache-features --workers 0"
if [ -n "${TINY:-}" ]; then
  LIMIT="--limit 8"
  SEEDS="0"
  ARMS="baseline mask25"
  LABELS="1"
  GENERATOR=train
fi

say "5,000 digits"
run python recipes/datasets.py digits --out "$DATA" ${LIMIT:-}

if [ "$GENERATOR" = train ]; then
  say "the generator: a k-means tokenizer and a label-free transformer, on the training digits alone"
  run python 00_train_generator.py vqgan --data "$DATA/train" --out "$RUNS/vqgan" $TOKENIZER
  run python 00_train_generator.py maskgit --data "$DATA/train" --tokenizer "$RUNS/vqgan" \
    --out "$RUNS/maskgit" $TRANSFORMER
  GENERATOR=$RUNS/maskgit
fi

made="" columns=""
declare -A MASK=([reconstruction]=none [mask25]=random:0.25 [mask50]=random:0.5)
for arm in $ARMS; do
  if [ -n "${MASK[$arm]:-}" ]; then
    say "generated images: $arm"
    run python 02_augment.py inpaint --data "$DATA/train" --weights "$GENERATOR" \
      --mask "${MASK[$arm]}" --out "$RUNS/mirrors/$arm" $INPAINT --seed "$DRAW" --workers 0
  elif [ "$arm" = oracle ]; then
    say "the oracle's images"
    run python 02_augment.py same-class --data "$DATA/train" --out "$RUNS/mirrors/oracle" --size 32
  else
    continue
  fi
  made="$made $arm" columns="$columns $RUNS/mirrors/$arm/view0"
done
run python 07_metrics.py sheet "$DATA/train" $columns --images 10 --titles $made \
  --out "$RUNS/digits.png"

for seed in $SEEDS; do
  for arm in $ARMS; do
    case $arm in
      baseline) flags="--mix 0" ;;
      control) flags="--generated real --mix $GAMMA" ;;
      *) flags="--generated $RUNS/mirrors/$arm --mix $GAMMA" ;;
    esac
    say "$arm, seed $seed"
    run python 03_pretrain.py --data "$DATA/train" --out "$RUNS/$arm-seed$seed" --seed "$seed" \
      $PRETRAIN $flags
    baselines=""
    if [ "$arm" = baseline ]; then baselines=--baselines; fi
    run python 04_linear_eval.py --data "$DATA" --backbone "$RUNS/$arm-seed$seed" \
      --labels-per-class $LABELS all --draws "$DRAWS" --seeds "$DRAW" $baselines $EVAL
  done
done
run python 07_metrics.py report "$RUNS" --decides "${LABELS%% *} label"
