"""The state of a training loop: its step, its means for the log, its checkpoints.

Used by every stage that trains, and by extras/. The loops themselves stand in the stages.
"""

import math
import time

import torch

from base import parallel, run, run_folder
from base.parallel import all_sum, world


class Meter:
    """Sums of the logged terms, means over the processes, since the last line of the log.

    The sums stay on the device, so that nothing waits for it between two lines of the log.
    state: {name: [sum, number of steps, first step with a value that was not finite]}; it goes
    into a checkpoint as it is. It is the same on every process.
    """

    def __init__(self, state=None, device="cpu"):
        self.state = {}
        for name, (total, steps, bad) in (state or {}).items():
            self.state[name] = [total.to(device), steps, bad.to(device)]

    def add(self, step, terms):
        """terms: {name: scalar tensor} of step number `step`, with the same names everywhere."""
        values = torch.stack([value.detach().double() for value in terms.values()])
        means = all_sum(values) / world()
        for name, value in zip(terms, means, strict=True):
            bad = torch.where(value.isfinite(), math.inf, float(step))
            if name in self.state:
                total, steps, first_bad = self.state[name]
                self.state[name] = [total + value, steps + 1, torch.minimum(first_bad, bad)]
            else:
                self.state[name] = [value, 1, bad]

    def finite(self):
        """True if every value so far was finite. Waits for the device."""
        return all(bool(bad.isinf()) for _, _, bad in self.state.values())

    def read(self):
        """{name: mean over steps and processes}, and start anew. Waits for the device.

        Ends all processes with one sentence where a value was not finite.
        """
        first_bad = {name: float(bad) for name, (_, _, bad) in self.state.items()}
        name = min(first_bad, key=first_bad.get)
        if first_bad[name] < math.inf:
            run.fail(
                f"Step {int(first_bad[name])}: {name} is not finite. The last checkpoint is kept. "
                "A lower --learning-rate or --precision fp32 may help."
            )
        means = {name: float(total) / steps for name, (total, steps, _) in self.state.items()}
        self.state = {}
        return means


class Clock:
    """Says when something is due: every `minutes`."""

    def __init__(self, minutes):
        self.seconds = 60 * minutes
        self.last = time.monotonic()

    def due(self):
        if time.monotonic() - self.last <= self.seconds:
            return False
        self.last = time.monotonic()
        return True


class Resumable:
    """What a checkpoint of a training holds: read when the run continues, written when it is due.

    out, minutes: the run folder, and the time between two checkpoints. device: that of the means.
    parts: networks and optimizers (whatever has state_dict and load_state_dict), or tensors, whose
    values are replaced. step: the number of the first step that is left. meter: the means since the
    last line of the log.
    """

    def __init__(self, out, minutes, device, **parts):
        self.out = out
        self.parts = parts
        self.clock = Clock(minutes)
        self.step, self.meter = 0, Meter()
        self.stop = None  # before the first step nothing is lost
        saved = run_folder.load_checkpoint(out)
        if saved is None:
            return
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                part.copy_(saved[name])
            else:
                part.load_state_dict(saved[name])
        self.step = saved["step"]
        self.meter = Meter(saved["meter"], device)

    def save_if_due(self, step, total):
        """After step number `step` (from 0) of `total`, but not after the last one.

        Where a value was not finite, nothing is: the next line of the log ends the run. After
        SIGINT or SIGTERM it is written at once, and run.Interrupt raised.
        """
        self.stop = self.stop or parallel.Stop()
        if step + 1 == total:
            self.stop.end()
            return
        stopped = self.stop.due(step)
        if (self.clock.due() or stopped) and self.meter.finite():
            self.save(step)
        if stopped:
            raise run.Interrupt(self.stop.number)

    def save(self, step):
        """Write a checkpoint after step number `step`."""
        state = {}
        for name, part in self.parts.items():
            state[name] = part if isinstance(part, torch.Tensor) else part.state_dict()
        run_folder.save_checkpoint(self.out, step=step + 1, meter=self.meter.state, **state)
