# Sourced by the recipes on digits: a generator that trains on a CPU, how it paints, and the encoder.
# The generator is k-means of 4 x 4 pixels and a small transformer. An encoder takes about a minute.
TOKENIZER="--size 32 --multipliers 1 --unshuffle 4 --codes 512 --code-dim 48 --epochs 0
  --perceptual-weight 0 --gan-weight 0 --no-flip --workers 0"
TRANSFORMER="--layers 3 --dim 96 --heads 3 --ema 0.999 --learning-rate 2e-3 --batch-size 64
  --epochs 60 --no-flip --workers 0"
INPAINT="--steps 6 --top-k 24 --softmax-temperature 0.67 --batch-size 64"
PRETRAIN="--method simclr --temperature 0.2 --backbone resnet10 --small-images --size 32
  --store-size 32 --view-preset digits --in-memory --optimizer adamw --learning-rate 1.77e-4
  --weight-decay 1e-4 --warmup-epochs 1 --batch-size 128 --projector 256-128 --epochs 4
  --log-every 10 --workers 0"
GENERATOR=${GENERATOR:-recipes/weights/digits.pth}
DRAWS=20 # of the few labels
# Small networks: more threads would wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ -n "${TINY:-}" ]; then
  DRAWS=2
  TOKENIZER="$TOKENIZER --codes 32"
  TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 16 --epochs 1"
  INPAINT="$INPAINT --steps 2"
  PRETRAIN="$PRETRAIN --batch-size 16 --projector 16-16 --epochs 1 --log-every 1"
fi
