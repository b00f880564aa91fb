"""Run a stage with worker processes that are started in another way than the system's usual one.

python tests/start_method.py spawn 01_caption.py --data ...     or forkserver
"""

import multiprocessing
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
