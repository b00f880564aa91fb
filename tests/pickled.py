"""Run a stage whose loaders read with a pickled copy of what they were given.

python tests/pickled.py 03_pretrain.py --data ...

Worker processes that are not forked get their reader this way (macOS spawns; Linux uses a fork
server from Python 3.14 on). So what cannot be sent, or arrives as another thing, shows at once.
"""

import pickle
import runpy
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    initialise = torch.utils.data.DataLoader.__init__

    def with_a_copy(self, dataset, **options):
        initialise(self, pickle.loads(pickle.dumps(dataset)), **options)

    torch.utils.data.DataLoader.__init__ = with_a_copy
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
