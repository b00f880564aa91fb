"""Means of what a training logs, and the first step at which a value was not finite."""

import math

import torch

from models import run
from models.parallel import everyone


class Meter:
    """Sums of the logged terms since the last line of the log.

    The sums stay on the device, so that nothing waits for it between two lines of the log.
    state: {name: [sum, number of steps, first step with a value that was not finite]}; it goes
    into a checkpoint as it is.
    """

    def __init__(self, state=None, device="cpu"):
        self.state = {}
        for name, (total, steps, bad) in (state or {}).items():
            self.state[name] = [total.to(device), steps, bad.to(device)]

    def add(self, step, terms):
        """terms: {name: scalar tensor} of step number `step`."""
        for name, value in terms.items():
            value = value.detach().double()
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
        here = {name: (float(t), n, float(bad)) for name, (t, n, bad) in self.state.items()}
        reports = everyone(here)
        means, first_bad = {}, {}
        for name in here:
            totals = [report[name][0] / report[name][1] for report in reports]
            means[name] = sum(totals) / len(totals)
            first_bad[name] = min(report[name][2] for report in reports)
        name = min(first_bad, key=first_bad.get)
        if first_bad[name] < math.inf:
            run.fail(
                f"Step {int(first_bad[name])}: {name} is not finite. The last checkpoint is kept. "
                "A lower --learning-rate or --precision fp32 may help."
            )
        self.state = {}
        return means
