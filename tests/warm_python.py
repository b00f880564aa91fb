"""`python` for tests: what is heavy is imported once, every command is a fork of that.

A command is a process of its own, with its arguments, environment, folder and streams. Whoever
kills the `python` that was started kills the fork with it. warm(folder) gives its folder.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

HEAVY = """
import cv2, diffusers, joblib, matplotlib.pyplot, msgpack
import scipy.linalg, scipy.special, sklearn.model_selection, sklearn.svm
import torch, torchvision
import torch.distributed.nn.functional, torch.nn.parallel, torch.utils.checkpoint
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from transformers import BertTokenizer, BlipForConditionalGeneration, BlipProcessor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
"""


@contextlib.contextmanager
def warm(folder):
    address = Path(folder) / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(address)], stdout=subprocess.PIPE
    )
    (Path(folder) / "bin").mkdir()
    python = Path(folder) / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {address} "$@"\n')
    python.chmod(0o755)
    assert server.stdout.readline() == b"ready\n"
    try:
        yield python.parent
    finally:
        server.terminate()
        server.wait()


def client(address, arguments):
    if (
        arguments[0].startswith("-") and arguments[0] != "-c"
    ):  # -m and the like are left to the real one
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"!"], [0, 1, 2])
        message = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        server.sendall(json.dumps(message).encode() + b"\n")
        answers = server.makefile()
        fork = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(fork, number))
        return int(answers.readline() or 137)  # nothing: it was killed


def serve(address):
    exec(HEAVY, {})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not os.fork():
                listener.close()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                message = json.loads(connection.makefile().readline())
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                connection.sendall(f"{os.getpid()}\n".encode())
                threading.Thread(target=die_with, args=[connection], daemon=True).start()
                code = become(**message)
                connection.sendall(f"{code}\n".encode())
                os._exit(code)
            connection.close()


def die_with(connection):
    """Kill this process when the other end of the connection is closed."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def become(arguments, folder, environment):
    """Run the command in this process; returns its exit code."""
    import runpy
    import traceback

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if arguments[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *arguments[2:]], folder
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
            sys.path[1:1] = environment.get("PYTHONPATH", "").split(os.pathsep)
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    end_processes()
    return code


def end_processes():
    """End joblib's idle processes, which would hold the streams open for five minutes."""
    from joblib.externals.loky import reusable_executor

    if reusable_executor._executor is not None:
        reusable_executor._executor.shutdown(kill_workers=True)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    raise SystemExit(client(sys.argv[1], sys.argv[2:]))
