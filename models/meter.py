"""Means of what a training logs, and the first step at which a value was not finite."""

import math

import torch

from models import run
from models.parallel import all_sum, world


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
