"""HyperQueue, as its package on PyPI offers it: a server, two workers of one processor each, and this client of its
Python API, each a process of its own. Nothing is written down: no journal, no output of tasks.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import machine
import measure


class HyperQueue:
    def __init__(self, directory, *programs):
        self.directory = directory
        self.noop_program, self.busy_program = programs

    def version(self):
        import hyperqueue

        return f"HyperQueue {hyperqueue.get_version()}"

    def start(self):
        server_dir = os.path.join(self.directory, "server")
        self.server = self.process("server", server_dir)
        self.workers = [
            self.process("worker", server_dir, os.path.join(self.directory, f"worker{number}"))
            for number in range(measure.SLOTS)
        ]
        from hyperqueue import Client

        self.client = Client(server_dir)
        self.noop(50)

    def process(self, *arguments):
        process = machine.start(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.directory
        )
        if not any(line == b"ready\n" for line in process.stdout):
            raise RuntimeError(f"the {arguments[0]} did not start")
        return process

    def stop(self):
        for process in [*self.workers, self.server]:
            process.kill()
            process.wait()

    def job(self, arguments, count):
        from hyperqueue import Job

        job = Job(default_workdir=self.directory, max_fails=None)
        for _ in range(count):
            job.program(arguments, stdout=None, stderr=None)
        return job

    def is_done(self, job):
        """One look at a submitted job. The package's own waiting looks once a second."""
        seen = []
        try:
            self.client.connection.wait_for_jobs((job.id,), lambda jobs: look(seen, jobs))
        except NotYet:
            return False
        if any(status["failed"] for status in seen):
            raise RuntimeError("tasks failed")
        return True

    def run(self, job, limit=600.0, not_before=0.0):
        """Seconds from handing over a job until it is known to be done."""
        began = time.perf_counter()
        submitted = self.client.submit(job)
        if measure.until(lambda: self.is_done(submitted), limit, not_before) is None:
            raise RuntimeError("the job did not end in time")
        took = time.perf_counter() - began
        self.client.forget(submitted)
        return took

    def noop(self, count):
        return self.run(self.job([self.noop_program], count))

    def latency(self, count):
        return measure.one_by_one(lambda: self.run(self.job([self.noop_program], 1)), count)

    def busy(self, ms, count):
        ideal = ms / 1000 * count / measure.SLOTS
        return ideal / self.run(self.job([self.busy_program, str(ms)], count), not_before=ideal)

    def lose(self, number, limit):
        starts = measure.Starts(self.directory)
        script = f'echo $$ >>"{starts.path}"; exec sleep {limit + 300}'
        self.client.submit(self.job(["sh", "-c", script], 1))
        return measure.lose_worker(starts, parent, signal.Signals[number], limit)


class NotYet(Exception):
    """The job still runs."""


def look(seen, jobs):
    if not all(status["completed"] for status in jobs.values()):
        raise NotYet
    seen.extend(jobs.values())


def parent(pid):
    """A task's parent is its worker."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def serve_server(directory):
    from hyperqueue.ffi.cluster import Cluster

    os.makedirs(directory)
    cluster = Cluster(directory)
    return cluster


def serve_worker(server_dir, directory):
    """The package starts workers only in the process of a server. So this process has a server that nobody talks to,
    and its worker is shown the way to the other one, as `hq worker start --server-dir` would be."""
    from hyperqueue.ffi.cluster import Cluster

    os.makedirs(directory)
    cluster = Cluster(directory)
    current = pathlib.Path(directory, "hq-current")
    current.unlink()
    current.symlink_to(pathlib.Path(server_dir, "hq-current").resolve())
    cluster.add_worker(1)
    return cluster


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", directory]:
            kept = serve_server(directory)
        case ["worker", server_dir, directory]:
            kept = serve_worker(server_dir, directory)
        case [directory, *programs]:
            measure.serve(HyperQueue(directory, *programs))
    print("ready", flush=True)
    # Whatever it says from here on has no reader.
    os.dup2(2, 1)
    sys.stdin.read()
    os._exit(0)
