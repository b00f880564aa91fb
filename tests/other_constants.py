"""Run 00_train_generator.py with another value of one of the constants of its training.

python tests/other_constants.py RESTART_STEPS=3 00_train_generator.py vqgan --data ...
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    name, value = sys.argv[1].split("=")
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    from augment import generator_training

    assert hasattr(generator_training, name)
    setattr(generator_training, name, float(value))
    runpy.run_path(sys.argv[0], run_name="__main__")
