"""Run a stage in another way than usual.

python tests/otherwise.py pickled 03_pretrain.py ...          readers get a pickled copy
python tests/otherwise.py spawn 03_pretrain.py ...            or forkserver
python tests/otherwise.py RESTART_STEPS=3 00_train_generator.py ...   another constant
python tests/otherwise.py test_heads:worker FOLDER            a function of a test
"""

import importlib
import multiprocessing
import pickle
import runpy
import sys
from pathlib import Path


def read_with_copies():
    import torch

    initialise = torch.utils.data.DataLoader.__init__

    def with_a_copy(self, dataset, **options):
        initialise(self, pickle.loads(pickle.dumps(dataset)), **options)

    torch.utils.data.DataLoader.__init__ = with_a_copy


def change(name, value):
    from augment import generator_training

    assert hasattr(generator_training, name)
    setattr(generator_training, name, float(value))


if __name__ == "__main__":
    way, *sys.argv = sys.argv[1:]
    if ":" in way:
        module, function = way.split(":")
        getattr(importlib.import_module(module), function)(*sys.argv)
        sys.exit()
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    if way == "pickled":
        read_with_copies()
    elif "=" in way:
        change(*way.split("="))
    else:
        multiprocessing.set_start_method(way)
    runpy.run_path(sys.argv[0], run_name="__main__")
