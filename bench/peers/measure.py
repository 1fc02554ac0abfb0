"""What is measured of every system, and the conversation with the process that measures it.

A system is a class with `start`, `stop`, `version` and what of the following it has:

    noop(count)           seconds from handing over so many tasks that do nothing until all are known to be done
    latency(count)        of so many tasks, each on an idle system: seconds from handing over to result
    busy(ms, count)       ideal time over real time of so many tasks that keep a core busy for so long, on two slots
    lose(number, limit)   seconds from a signal to a worker until its task runs again elsewhere; None: not in time

Its file, run by itself, serves these: `{"do": NAME, "with": [ARGUMENT…]}` a line on standard input, `{"ok": VALUE}`
or `{"error": TEXT}` a line on standard output. It ends, with all that it started, when its input does.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback

import machine

SLOTS = 2
# After so long a pause a system is idle, the acknowledgements that TCP holds back included: HyperQueue's next task
# would wait for them.
IDLE_SECONDS = 0.1
# Tasks before those that count, when they are measured one by one.
WARM_UP = 5
# Looking for the end of something may cost this share of what it takes, and is never slower or faster than this.
LOOK_SHARE, LOOK_SECONDS = 0.01, (0.0005, 0.02)


def until(done, limit, not_before=0.0):
    """Looks until `done()` is true and returns the seconds that took, or None after `limit`."""
    began = time.perf_counter()
    time.sleep(not_before)
    while not done():
        passed = time.perf_counter() - began
        if passed > limit:
            return None
        late = passed - not_before
        time.sleep(min(max(late * LOOK_SHARE, LOOK_SECONDS[0]), LOOK_SECONDS[1]))
    return time.perf_counter() - began


def timed(work):
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def one_by_one(run, count):
    """What so many calls return, each on an idle system, after some that do not count."""
    results = []
    for _ in range(WARM_UP + count):
        time.sleep(IDLE_SECONDS)
        results.append(run())
    return results[WARM_UP:]


class Starts:
    """A file to which a task writes its process's id whenever it starts to run."""

    # The same for tasks in Python and, as a process, in `sh`.
    def __init__(self, directory):
        self.path = os.path.join(directory, f"starts-{time.monotonic_ns()}")

    def pids(self):
        try:
            with open(self.path, encoding="ascii") as file:
                return [int(line) for line in file.read().split()]
        except FileNotFoundError:
            return []


def keep_busy(ms):
    """What a busy task does, in whatever process it runs."""
    end = time.perf_counter() + ms / 1000
    while time.perf_counter() < end:
        pass


def note_and_stay(path, seconds):
    """The task of `lose`: notes that it runs, and stays."""
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)


def lose_worker(starts, victim, number, limit):
    """Waits for the task's first start, sends the signal to `victim(pid of the task)`, waits for the second start."""
    if until(lambda: len(starts.pids()) == 1, 60) is None:
        raise RuntimeError("the task to be lost did not start once in a minute")
    time.sleep(1)
    os.kill(victim(starts.pids()[0]), number)
    return until(lambda: len(starts.pids()) > 1, limit)


def serve(system):
    """Answers on what was standard output; what the system itself says goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    machine.adopt()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for line in sys.stdin:
            answers.write(json.dumps(answer(system, json.loads(line))) + "\n")
            answers.flush()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        machine.end_descendants()
        # Without the libraries' own farewells to processes that are gone.
        os._exit(0)


def answer(system, request):
    time.sleep(IDLE_SECONDS)
    try:
        return {"ok": getattr(system, request["do"])(*request["with"])}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


class Failed(Exception):
    """A system did not do what it was asked for."""


class Peer:
    """The other end of `serve`: a process that runs one system."""

    def __init__(self, python, file, arguments, log):
        command = [python, file, *arguments]
        # At SIGTERM it ends what it started.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        self.process = machine.start(command, at_parents_end=signal.SIGTERM, start_new_session=True, **pipes)
        self.unread = b""

    def ask(self, name, *arguments, limit):
        """The answer, in at most so many seconds."""
        request = json.dumps({"do": name, "with": arguments}) + "\n"
        try:
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"{name}: its process has ended") from error
        reply = json.loads(self.line(name, time.monotonic() + limit))
        if "error" in reply:
            raise Failed(f"{name}: {reply['error']}")
        return reply["ok"]

    def line(self, name, deadline):
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failed(f"{name}: no answer in time")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Failed(f"{name}: its process has ended")
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return line

    def end(self):
        """Ends the process and all that it started, whatever it is doing."""
        self.process.terminate()
        try:
            self.process.wait(3 * machine.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        machine.end_descendants()
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
