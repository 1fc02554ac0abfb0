"""Ray: one node with two processors on this machine, driven from this process. Usage statistics are off."""

import os
import signal
import sys

import measure

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# There is nobody else on its network; with tokens it would leave one in the user's home.
os.environ["RAY_AUTH_MODE"] = "disabled"


class Ray:
    def __init__(self, directory):
        self.directory = directory

    def version(self):
        import ray

        return f"Ray {ray.__version__}"

    def start(self):
        import ray

        self.ray = ray
        ray.init(
            num_cpus=measure.SLOTS,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=256 << 20,
            _node_ip_address="127.0.0.1",
            _temp_dir=self.directory,
        )
        self.noop_task = ray.remote(num_cpus=1)(do_nothing)
        self.busy_task = ray.remote(num_cpus=1)(measure.keep_busy)
        self.staying_task = ray.remote(num_cpus=1)(measure.note_and_stay)
        # Both workers are there, and both have the functions.
        ray.get([self.busy_task.remote(200) for _ in range(4 * measure.SLOTS)])
        self.noop(50)

    def stop(self):
        self.ray.shutdown()

    def noop(self, count):
        return measure.timed(lambda: self.ray.get([self.noop_task.remote() for _ in range(count)]))

    def latency(self, count):
        return measure.one_by_one(lambda: measure.timed(lambda: self.ray.get(self.noop_task.remote())), count)

    def busy(self, ms, count):
        ideal = ms / 1000 * count / measure.SLOTS
        return ideal / measure.timed(lambda: self.ray.get([self.busy_task.remote(ms) for _ in range(count)]))

    def lose(self, number, limit):
        starts = measure.Starts(self.directory)
        # Nobody wants the result, but without a name for it the task would be cancelled.
        _kept = self.staying_task.remote(starts.path, limit + 300)
        return measure.lose_worker(starts, lambda pid: pid, signal.Signals[number], limit)


def do_nothing():
    pass


if __name__ == "__main__":
    measure.serve(Ray(sys.argv[1]))
