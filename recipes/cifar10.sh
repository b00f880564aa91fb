#!/usr/bin/env bash
# When does a generated view help? CIFAR-10, where anybody can repeat it.
#
#   bash recipes/cifar10.sh                          fetches CIFAR-10; one night on one card
#   BUDGET=cpu bash recipes/cifar10.sh               10,000 images, two hours on two CPU cores
#   DATA=/my/cifar bash recipes/cifar10.sh           image files instead: train/ and val/ or test/
#
# BUDGET says how much is trained; every list below can be given as well (SEEDS="0 1 2" ...):
#   cpu     SimCLR, a 10-layer ResNet, 8 epochs of 10,000 images, 7 arms, 3 seeds
#   hour    SimCLR, ResNet-18, 35 epochs, 4 arms, 1 seed
#   night   SimCLR, ResNet-18, 45 epochs, 11 arms, 3 seeds
#   full    VICReg and SimCLR as solo-learn publishes them: 1,000 epochs, all arms, 3 seeds
# Half of the second views (gamma 0.5) come from the arm's images:
#   baseline             hand-crafted views only
#   control              the real image where the generated one would stand
#   reconstruction       the tokenizer's reconstruction, nothing masked
#   mask25 mask50 mask75 in-painted: that share of the tokens is predicted
#   weak50               as mask50, by a transformer that was stopped early
#   outpaint             the image at the centre, its surroundings predicted
#   diffusion0.1 ...     a text-free diffusion model, by strength
#   neighbour            the image that the first baseline finds most similar
#   oracle               another image of the class: the ceiling of any generator, it uses the labels
# First the baseline and the oracle are trained. If their gap is within its interval, this budget
# cannot tell a good partner from a bad one, and nothing below means much. The generators are trained
# on the training images alone, without labels; they are made once, with seed 0.
# The last product is the report. Its RUNS/gains.png is the gain of every arm against how far its
# images are from the originals.
source "$(dirname "$0")/start.sh"
preflight "$@"
BUDGET=${BUDGET:-night}
METHODS=simclr
PART=""
TOKENIZER="--size 32 --filters 128 --multipliers 1 2 --unshuffle 2 --blocks 2 --codes 1024
  --code-dim 64 --gan-weight 0 --perceptual-weight 0 --learning-rate 5e-4 --batch-size 128"
TRANSFORMER="--layers 8 --dim 384 --heads 6 --learning-rate 5e-4 --batch-size 256"
DIFFUSION="--size 32 --multipliers 1 2 2 --learning-rate 2e-4"
PRETRAIN="--preset cifar --in-memory"
EVAL="--cache-features"
case $BUDGET in
  cpu)
    PART="--limit 1000 500"
    ALL_ARMS="control reconstruction mask25 mask50 weak50"
    ALL_SEEDS="0 1 2"
    EPOCHS=8
    TOKENIZER="--size 32 --filters 64 --multipliers 1 --unshuffle 4 --blocks 1 --codes 1024
      --code-dim 48 --groups 16 --perceptual-weight 0 --gan-weight 0 --learning-rate 1e-3
      --batch-size 64 --epochs 10 --workers 0"
    TRANSFORMER="--layers 3 --dim 128 --heads 4 --ema 0.999 --learning-rate 2e-3 --batch-size 64
      --workers 0"
    TRANSFORMER_EPOCHS="15 1"
    PRETRAIN="$PRETRAIN --backbone resnet10 --crop-scale 0.2 1 --optimizer adamw --learning-rate 4e-3
      --warmup-epochs 1 --batch-size 128 --projector 256-128 --log-every 78 --workers 0"
    EVAL="$EVAL --workers 0"
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    ;;
  hour)
    ALL_ARMS="control mask50"
    ALL_SEEDS="0"
    EPOCHS=35
    TOKENIZER="$TOKENIZER --epochs 20"
    TRANSFORMER_EPOCHS="60 1"
    PRETRAIN="$PRETRAIN --warmup-epochs 4"
    ;;
  night)
    ALL_ARMS="control reconstruction mask25 mask50 mask75 weak50 outpaint diffusion0.2 neighbour"
    ALL_SEEDS="0 1 2"
    EPOCHS=45
    TOKENIZER="$TOKENIZER --epochs 40"
    TRANSFORMER_EPOCHS="200 2"
    DIFFUSION="$DIFFUSION --epochs 100 --ema 0.999"
    ;;
  full)
    METHODS="vicreg simclr"
    ALL_ARMS="control reconstruction mask25 mask50 mask75 weak50 outpaint diffusion0.1 diffusion0.2
      diffusion0.3 diffusion0.4 diffusion0.5 neighbour"
    ALL_SEEDS="0 1 2"
    EPOCHS=1000
    TOKENIZER="$TOKENIZER --epochs 100"
    TRANSFORMER_EPOCHS="1000 5"
    DIFFUSION="$DIFFUSION --epochs 1000"
    ;;
  *)
    echo "BUDGET=$BUDGET: it is cpu, hour, night or full." >&2
    exit 2
    ;;
esac
ARMS=${ARMS:-$ALL_ARMS}
SEEDS=${SEEDS:-$ALL_SEEDS}
GAMMA=${GAMMA:-0.5}
PAIR=${PAIR:-crop}
LABELS=${LABELS:-"10 100"}
IMAGES=${DATA:+--images $DATA}
INPAINT="--steps 6 --top-k 24 --softmax-temperature 0.67 --batch-size 250"
DRAWS=10
COST="--images 200 --compare 5000"
if [ -n "${TINY:-}" ]; then
  PART="--limit 8 4"
  ARMS="control mask50"
  SEEDS="0"
  LABELS="2"
  EPOCHS=1
  TOKENIZER="$TOKENIZER --filters 16 --groups 4 --codes 16 --batch-size 16 --epochs 1 --workers 0"
  TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 16 --workers 0"
  TRANSFORMER_EPOCHS="2 1"
  DIFFUSION="--size 32 --width 32 --multipliers 1 2 --blocks 1 --epochs 1 --batch-size 16 --workers 0"
  INPAINT="$INPAINT --steps 2 --workers 0"
  PRETRAIN="$PRETRAIN --backbone resnet10 --projector 16-16 --batch-size 16 --warmup-epochs 0
    --log-every 1 --workers 0"
  EVAL="--cache-features --workers 0"
  DRAWS=2
  COST="--images 2 --compare 40 --workers 0"
fi
RUNS=${RUNS:-$RUN_ROOT/cifar10-$BUDGET}
DATA=$DATA_ROOT/cifar10${PART:+-part}
MIRRORS=$RUNS/mirrors
FIRST=${METHODS%% *}-baseline-seed${SEEDS%% *}  # its features say what is near
read -r LONG SHORT <<< "$TRANSFORMER_EPOCHS"

say "the images"
run python recipes/datasets.py cifar10 --out "$DATA" --archive "$DATA_ROOT/archives" $IMAGES $PART

# ---- the generators, and the images of an arm
maskgit() {  # name, epochs
  $LAUNCH 00_train_generator.py maskgit --data "$DATA/train" --tokenizer "$RUNS/vqgan" \
    --out "$RUNS/$1" $TRANSFORMER --epochs "$2"
}
generators() {
  $LAUNCH 00_train_generator.py vqgan --data "$DATA/train" --out "$RUNS/vqgan" $TOKENIZER
  maskgit maskgit "$LONG"
  if [[ $ARMS == *weak* ]]; then maskgit maskgit-weak "$SHORT"; fi
  if [[ $ARMS == *diffusion* ]]; then
    $LAUNCH extras/train_diffusion.py --data "$DATA/train" --out "$RUNS/ddpm" $DIFFUSION
  fi
}
paint() {  # name of the mirror, weights, mask
  $LAUNCH 02_augment.py inpaint --data "$DATA/train" --out "$MIRRORS/$1" --weights "$RUNS/$2" \
    --mask "$3" $INPAINT
}
mirror() {  # arm
  case $1 in
    reconstruction) paint "$1" maskgit none ;;
    mask*) paint "$1" maskgit "random:0.${1#mask}" ;;
    weak*) paint "$1" maskgit-weak "random:0.${1#weak}" ;;
    outpaint)
      $LAUNCH 02_augment.py outpaint --data "$DATA/train" --out "$MIRRORS/$1" \
        --weights "$RUNS/maskgit" --positions center $INPAINT
      ;;
    diffusion*)
      $LAUNCH 02_augment.py diffusion --data "$DATA/train" --out "$MIRRORS/diffusion" \
        --model "$RUNS/ddpm" --strength "${1#diffusion}" --store-size 32 --batch-size 250
      ;;
    neighbour)
      $LAUNCH 02_augment.py neighbour --data "$DATA/train" --out "$MIRRORS/$1" --size 32 \
        --backbone "$RUNS/$FIRST"
      ;;
    oracle) $LAUNCH 02_augment.py same-class --data "$DATA/train" --out "$MIRRORS/$1" --size 32 ;;
  esac
}
folder() {  # arm: where its images are
  case $1 in
    diffusion*) echo "$MIRRORS/diffusion/strength${1#diffusion}" ;;
    *) echo "$MIRRORS/$1" ;;
  esac
}

# ---- an arm: the encoder, then frozen features with all labels and with few
arm() {  # name, method, seed
  local name=$RUNS/$2-$1-seed$3 flags
  case $1 in
    baseline) flags="--mix 0" ;;
    control) flags="--generated real --mix $GAMMA --pair $PAIR" ;;
    *) flags="--generated $(folder "$1") --mix $GAMMA --pair $PAIR" ;;
  esac
  say "$2, $1, seed $3"
  $LAUNCH 03_pretrain.py --data "$DATA/train" --out "$name" --method "$2" --seed "$3" \
    --epochs "$EPOCHS" $PRETRAIN $flags
  local more=""
  if [ "$1" = baseline ]; then more=--baselines; fi
  $LAUNCH 04_linear_eval.py --data "$DATA" --backbone "$name" --knn $more $EVAL
  for labels in $LABELS; do
    $LAUNCH 04_linear_eval.py --data "$DATA" --backbone "$name" --labels-per-class "$labels" \
      --draws "$DRAWS" $EVAL
  done
}
mirror oracle
for method in $METHODS; do
  for seed in $SEEDS; do
    for name in baseline oracle; do arm "$name" "$method" "$seed"; done
  done
done
say "can this budget tell a good partner from a bad one?"
run python 07_metrics.py report "$RUNS"

say "the generators, and one generated image for each image and arm"
generators
for name in $ARMS; do mirror "$name"; done
for method in $METHODS; do
  for seed in $SEEDS; do
    for name in $ARMS; do arm "$name" "$method" "$seed"; done
  done
done

say "how far the images of each arm are from the originals, in the features of the first baseline"
places=""
for name in $ARMS oracle; do
  if [ "$name" != control ]; then places="$places $(folder "$name")"; fi
done
$LAUNCH 07_metrics.py cost $places --out "$RUNS/cost" --size 32 \
  --features "$RUNS/$FIRST" $COST
run python 07_metrics.py report "$RUNS"
