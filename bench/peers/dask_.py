"""Dask: a scheduler and two workers of one thread each, every one a process of its own, driven from this process."""

import signal
import sys

import measure


class Dask:
    def __init__(self, directory):
        self.directory = directory

    def version(self):
        import distributed

        return f"Dask {distributed.__version__}"

    def start(self):
        import dask
        import distributed

        dask.config.set({"temporary-directory": self.directory, "distributed.version-check": False})
        self.cluster = distributed.LocalCluster(
            n_workers=measure.SLOTS,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        )
        self.client = distributed.Client(self.cluster)
        self.client.wait_for_workers(measure.SLOTS)
        self.noop(50)

    def stop(self):
        self.client.close()
        self.cluster.close()

    def noop(self, count):
        return measure.timed(lambda: self.client.gather(self.client.map(do_nothing, range(count), pure=False)))

    def latency(self, count):
        one = lambda: self.client.submit(do_nothing, 0, pure=False).result()
        return measure.one_by_one(lambda: measure.timed(one), count)

    def busy(self, ms, count):
        ideal = ms / 1000 * count / measure.SLOTS
        run = lambda: self.client.gather(self.client.map(measure.keep_busy, [ms] * count, pure=False))
        return ideal / measure.timed(run)

    def lose(self, number, limit):
        starts = measure.Starts(self.directory)
        # Nobody wants the result, but without a name for it the task would be cancelled.
        _kept = self.client.submit(measure.note_and_stay, starts.path, limit + 300, pure=False)
        return measure.lose_worker(starts, lambda pid: pid, signal.Signals[number], limit)


def do_nothing(_):
    pass


if __name__ == "__main__":
    measure.serve(Dask(sys.argv[1]))
