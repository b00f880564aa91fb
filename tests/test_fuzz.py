"""tools/fuzz.py: it knows every flag of every stage, and what is wrong with an end."""

import argparse
import random

import fuzz
import pytest
from conftest import ROOT, write_images

from augment import registry

ENDS = {
    "pass": "",
    "print('no'); raise SystemExit(2)": "",
    "raise SystemExit(1)": "no word",
    "raise SystemExit(3)": "exit code 3",
    "raise ValueError": "traceback",
    "while True: pass": "hang",
    "import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)": "hang",
}


@pytest.fixture(autouse=True)
def no_strategy_of_extras(monkeypatch):
    """Another test of this process may have loaded them."""
    monkeypatch.delitem(registry.STRATEGIES, "feature-noise", raising=False)


@pytest.mark.parametrize("program", ENDS)
def test_how_a_command_ends(program, tmp_path):
    (tmp_path / "program.py").write_text(program)
    words = [str(tmp_path / "program.py")]
    code, said, stopped = fuzz.attempt(tmp_path, words, 0.2)
    assert fuzz.fault(code, said, stopped, words) == ENDS[program]


def test_every_command_and_its_flags():
    found = {}
    for script in sorted(ROOT.glob("0*.py")):
        found |= fuzz.actions(script.name)
    assert found.keys() == fuzz.COMMANDS.keys()
    rng = random.Random(0)
    for actions in found.values():
        for action in actions:
            if action.type:
                texts = [fuzz.value(action, rng) for _ in range(30)]
                assert any(fuzz.accepts(action, text) for text in texts), action


def test_trials(tmp_path, monkeypatch, capsys):
    def make(home):
        write_images(home / "data/train")
        write_images(home / "gen/view0")
        (home / "runs").mkdir()

    monkeypatch.setattr(fuzz, "make", make)
    flags = dict(seed=0, seconds=20, jobs=1, show=True)
    fuzz.main(argparse.Namespace(only=["02", "07"], first=0, trials=3, **flags))
    several = capsys.readouterr().out
    assert "in 6 command lines" in several and several.count("again: --seed 0") == 6
    fuzz.main(argparse.Namespace(only=["02"], first=2, trials=1, **flags))
    assert capsys.readouterr().out.splitlines()[0] in several
