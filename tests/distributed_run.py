"""What torchrun starts in the tests of `clearloop train` and of failures; each process leaves its id in pids/.

distributed_run.py train DATA ...    the command line, as `python -m clearloop` runs it
distributed_run.py dying DATA ...    the same, but the first start is killed when it is about to write the recipe
distributed_run.py raising RANK    a script whose process RANK meets an item that cannot be read, in epoch 1
distributed_run.py steps    500 steps, whose end is in steps.pt
distributed_run.py script    a script that goes on with its run, where there is one
"""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import clearloop as cl


def note_id():
    """pids/RESTART-RANK."""
    Path("pids").mkdir(exist_ok=True)
    Path("pids", f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['RANK']}").write_text(str(os.getpid()))


class Items(torch.utils.data.Dataset):
    """Samples, one of which process `bad_rank` cannot read the second time."""

    def __init__(self, bad_rank):
        self.asked, self.bad = 0, str(bad_rank) == os.environ["RANK"]

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.asked += 1
        if self.bad and self.asked > 40:
            raise cl.DataError(f"item {index} of the test cannot be read")
        return torch.full((3,), index / 40), index % 2


def raising(rank):
    learn = cl.Learner((cl.DataLoader(Items(rank), 10), None), nn.Linear(3, 2), F.cross_entropy, lr=0.1, seed=0)
    learn.fit(50)


def script():
    """What docs/distributed.md shows."""
    torch.manual_seed(0)
    data = cl.TensorDataset(torch.randn(256, 8), torch.randint(0, 2, (256,)))
    dls = cl.DataLoaders(cl.DataLoader(data, 16, shuffle=True, seed=0), cl.DataLoader(data, 64))
    if cl.resumable("run"):
        learn = cl.Learner.load("run", dls=dls)
        learn.resume()
    else:
        checks = cl.Checkpoints("run", every=4)
        learn = cl.Learner(
            dls, cl.models.mlp(8, 16, 2), F.cross_entropy, lr=0.1, metrics=cl.accuracy, seed=0, cbs=checks
        )
        learn.fit(4)


def die_at_first():
    """Be killed between what a run's folder holds before its recipe, and the recipe."""
    from clearloop.rundir import RunDirectory

    def half(self, content):
        (self.path / "git.diff").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        RunDirectory.write_recipe = half


def main(command, *rest):
    note_id()
    torch.set_num_threads(1)
    if command == "raising":
        raising(*rest)
    elif command == "steps":
        from distributed_scenarios import five_hundred_steps

        found = five_hundred_steps()
        if os.environ["RANK"] == "0":
            torch.save(found, "steps.pt")
    elif command == "script":
        script()
    else:
        if command == "dying":
            sys.argv[1] = "train"
            die_at_first()
        command_line()


def command_line():
    """The command of sys.argv, but for its pictures, which take longer than these runs."""
    from clearloop import cli
    from clearloop.commands import running

    running.draw_curves = running.draw_looks = lambda learn: None
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
