"""Runs of the real command line in processes of their own, quick to start and watched from outside.

A server that has imported everything once forks a child for each command. The child notes in a file, before it goes on,
which step it has taken and what it is about to do on the disk; it can be told to die there. Nothing of this is known to
the library: the child wraps a few of its functions and puts another file system in place. The curves, which take four
fifths of so short a run and come after everything else, are an empty file.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

DEADLINE_S = 60  # a process that has not ended by then hangs
RECORD = 200  # bytes of the file in which a process notes where it is


class Processes:
    """Starts commands of clearloop by way of a fork server."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.asking = threading.Lock()
        self.started = []

    def close(self):
        """End the server, and what a test that failed has left of its processes."""
        for process in self.started:
            if process.code is None:
                process.send(signal.SIGKILL)
                process.wait()
        self.server.stdin.close()
        self.server.wait(DEADLINE_S)
        self.server.stdout.close()

    def start(self, *arguments, cwd, die=None, pause=None):
        """Begin `clearloop ARGUMENTS` in the folder `cwd`.

        `die`, (operation on the disk by number, "before" or "middle"), is where it kills itself. `pause`, (step, what
        it does), is where it stops itself until it is sent SIGCONT.
        """
        request = {"start": [str(argument) for argument in arguments], "cwd": str(cwd), "die": die, "pause": pause}
        process = Process(self, self.ask(request), Path(cwd))
        self.started.append(process)
        return process

    def run(self, *arguments, cwd, die=None):
        """The same, to its end."""
        process = self.start(*arguments, cwd=cwd, die=die)
        process.wait()
        return process

    def ask(self, request):
        with self.asking:
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            return json.loads(self.server.stdout.readline())


class Process:
    """One command that runs, or has ended: `code` is negative where a signal ended it."""

    def __init__(self, processes, pid, cwd):
        self.processes, self.pid, self.cwd = processes, pid, cwd
        self.handle = os.pidfd_open(pid)
        self.code = None

    def wait(self, within_s=DEADLINE_S):
        """Wait for its end; it is killed, and the test fails, where it does not come."""
        ended, _, _ = select.select([self.handle], [], [], within_s)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        status = self.processes.ask({"wait": self.pid})
        os.close(self.handle)
        self.code = os.waitstatus_to_exitcode(status)
        assert ended, f"the command did not end within {within_s} s:\n{self.output}"
        return self.code

    def send(self, number):
        """Send a signal; nothing happens where the process has just ended, which `wait` tells."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)

    def ended(self):
        return bool(select.select([self.handle], [], [], 0)[0])

    def wait_for(self, reached):
        """Until `reached(step, doing)` is true of where the process is, or it has ended. Says which."""
        latest = time.monotonic() + DEADLINE_S
        while not self.ended():
            if reached(*self.place()):
                return True
            assert time.monotonic() < latest, f"the command never came there; last seen at {self.place()}"
            time.sleep(0.0002)
        return False

    def wait_for_pause(self):
        """Until the process has stopped itself where it was told to."""
        latest = time.monotonic() + DEADLINE_S
        while not Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].startswith(" T"):
            assert not self.ended(), f"the command never came there:\n{self.output}"
            assert time.monotonic() < latest, f"the command never came there; last seen at {self.place()}"
            time.sleep(0.001)

    def place(self):
        """The steps it has taken, and what it does: "start", "train", "validate", or an operation on a path."""
        with contextlib.suppress(OSError, ValueError):
            step, doing = (self.cwd / f"place-{self.pid}").read_text().split(" ", 1)
            return int(step), doing.strip()
        return -1, "start"

    @property
    def operations(self):
        """All that it did on the disk, in order."""
        return (self.cwd / f"operations-{self.pid}").read_text().splitlines()

    @property
    def output(self):
        return (self.cwd / f"output-{self.pid}").read_text()


# -- the server -------------------------------------------------------------------------------------------------------


def serve():
    """Import all that a run needs, then fork a child for each command."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import matplotlib.pyplot  # noqa: F401
    import torch
    import torch._dynamo  # the first optimizer imports it, which takes a second

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()
    import clearloop.cli
    import clearloop.learner
    import clearloop.plots  # noqa: F401
    from clearloop import DataLoaders, Progress  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                be_command(**request)
        print(answer, flush=True)


def be_command(start, cwd, die, pause):
    """In the child: what the `clearloop` script does."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(f"output-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(old, new)
        sys.argv = ["clearloop", *start]
        from clearloop import cli, durable

        with durable.using(watch(die, pause)):
            cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch(die, pause):
    """Note each step and each evaluation, and give the file system that notes every operation."""
    from clearloop import durable, learner, plots
    from clearloop.engines import eager

    place = os.open(f"place-{os.getpid()}", os.O_WRONLY | os.O_CREAT)
    operations = os.open(f"operations-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    steps, done = 0, 0

    def note(doing):
        nonlocal pause
        os.pwrite(place, f"{steps} {doing}".ljust(RECORD).encode(), 0)
        if pause is not None and steps >= pause[0] and doing.startswith(pause[1]):
            pause = None
            os.kill(os.getpid(), signal.SIGSTOP)

    def noting(function, doing, taken):
        def wrapped(*args, **kwargs):
            nonlocal steps
            note(doing)
            result = function(*args, **kwargs)
            steps += taken
            note(doing)
            return result

        return wrapped

    eager.train_step = noting(eager.train_step, "train", 1)
    eager.accumulated_step = noting(eager.accumulated_step, "train", 1)
    learner.evaluate = noting(learner.evaluate, "validate", 0)
    load_state_dict = learner.Learner.load_state_dict

    def load(self, states, history):
        nonlocal steps
        load_state_dict(self, states, history)
        steps = self.history.steps
        note("start")

    learner.Learner.load_state_dict = load
    plots.plot_loss = empty_picture

    class Watched(durable.FileSystem):
        """Every operation is noted before it is done; at the one that was asked for, the process dies."""

        def write(self, path, data):
            self._do("write", path, lambda part: durable.FileSystem.write(self, path, part), data)

        def append(self, path, data):
            self._do("append", path, lambda part: durable.FileSystem.append(self, path, part), data)

        def mkdir(self, path):
            self._do("mkdir", path, lambda: durable.FileSystem.mkdir(self, path))

        def truncate(self, path, size):
            self._do("truncate", path, lambda: durable.FileSystem.truncate(self, path, size))

        def fsync(self, path):
            self._do("fsync", path, lambda: durable.FileSystem.fsync(self, path))

        def rename(self, old, new):
            self._do("rename", old, lambda: durable.FileSystem.rename(self, old, new))

        def unlink(self, path):
            self._do("unlink", path, lambda: durable.FileSystem.unlink(self, path))

        def rmdir(self, path):
            self._do("rmdir", path, lambda: durable.FileSystem.rmdir(self, path))

        def _do(self, operation, path, action, data=None):
            nonlocal done
            phase = f"{operation} {plain(path)}"
            os.write(operations, f"{phase}\n".encode())
            note(phase)
            if die is not None and die[0] == done:
                if die[1] == "middle" and data is not None:
                    action(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            action() if data is None else action(data)
            note("train")

    note("start")
    return Watched()


def empty_picture(history, path):
    path.parent.mkdir(exist_ok=True)
    path.touch()


def plain(path):
    """A path within the run, without what differs from save to save."""
    inside = Path(path).resolve().parts
    name = "/".join(inside[inside.index("run") :]) if "run" in inside else "the parent"
    return re.sub(r"step-\d+", "step", re.sub(r"(\.tmp-[^/]*)-\d+", r"\1", name))


if __name__ == "__main__":
    serve()
