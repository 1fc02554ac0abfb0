"""swarm: one node with two slots; for the loss of a worker three nodes with one slot each, as many as two copies of
everything take when one of them dies. Everything is written down and synced before it is acknowledged.

Jobs are handed over by the node's API, as the other systems' are by theirs, and by the command. The API takes a job
encoded, so the command encodes it once, through a socket of ours that writes down what passes; the same bytes once more
are another job.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import machine
import measure

HERE = os.path.dirname(os.path.abspath(__file__))
# Two busy tasks, side by side, of so many rounds and of several times as many: the difference in time tells how many rounds a
# millisecond has. So many are tried first, and doubled until they take long enough to be told from the start of a job.
ROUNDS_FIRST, SHORT_SECONDS, LONG_TIMES = 100_000_000, 0.3, 4
# A task that outlasts every limit: some ten minutes.
ROUNDS_STAYING = 450_000_000_000


class Swarm:
    def __init__(self, directory, program):
        self.directory, self.program = directory, program

    def version(self):
        return subprocess.check_output([self.program, "version"], text=True).split("\n", 1)[0]

    def start(self):
        for guest in ("noop.wasm", "busy.wasm"):
            shutil.copy(os.path.join(HERE, guest), self.directory)
        self.node = Node(self, 0, measure.SLOTS)
        self.noop(50)

    def stop(self):
        self.node.end()

    def file(self, guest, count, *arguments, more=""):
        """A job file of so many equal tasks; its path."""
        name = "-".join(["job", guest, str(count), *map(str, arguments)])
        path = os.path.join(self.directory, f"{name}.toml")
        with open(path, "w", encoding="ascii") as file:
            file.write(f'name = "{guest}"\n{more}\n[task.{guest}]\nwasm = "{guest}.wasm"\narray = "0..{count}"\n')
            file.write(f"args = {json.dumps(list(map(str, arguments)))}\n")
        return path

    def run(self, file, not_before=0.0):
        """Seconds from handing over a job until it is known to be done."""
        spec = self.node.encoded(file)
        began = time.perf_counter()
        self.node.until_done(self.node.submit(spec), not_before=not_before)
        return time.perf_counter() - began

    def noop(self, count):
        return self.run(self.file("noop", count))

    def latency(self, count):
        file = self.file("noop", 1)
        return measure.one_by_one(lambda: self.run(file), count)

    def latency_cli(self, count):
        command = [self.program, "--node", self.node.data, "submit", self.file("noop", 1), "--wait", "-o", "id"]
        run = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return measure.one_by_one(lambda: measure.timed(run), count)

    def busy(self, ms, count):
        """What the tasks take at the least is known from before and after, the mean of both."""
        before = self.rounds_per_ms()
        rounds = round(before * ms)
        took = self.run(self.file("busy", count, rounds), not_before=0.9 * ms / 1000 * count / measure.SLOTS)
        per_ms = (before + self.rounds_per_ms()) / 2
        return rounds / per_ms / 1000 * count / measure.SLOTS / took

    def rounds_per_ms(self):
        """How many rounds a millisecond has, with both slots busy."""
        rounds = ROUNDS_FIRST
        while (short := self.run(self.file("busy", measure.SLOTS, rounds))) < SHORT_SECONDS:
            rounds *= 2
        long = self.run(self.file("busy", measure.SLOTS, LONG_TIMES * rounds), not_before=0.8 * LONG_TIMES * short)
        return (LONG_TIMES - 1) * rounds / (long - short) / 1000

    def lose(self, number, limit):
        self.node.end()
        nodes = []
        try:
            for count in range(1, 4):
                nodes.append(Node(self, count, 1, *(["--bootstrap", nodes[0].address] if nodes else [])))
            if measure.until(lambda: all(node.get("/v1/status")["alive"] == 3 for node in nodes), 60) is None:
                raise RuntimeError("three nodes did not find each other in a minute")
            return self.lose_one(nodes, signal.Signals[number], limit)
        finally:
            for node in nodes:
                node.end()

    def lose_one(self, nodes, number, limit):
        more = '[defaults]\ntimeout = "1h"\nlimits = { fuel = 100_000_000_000_000 }\n'
        file = self.file("busy", 1, ROUNDS_STAYING, more=more)
        command = [self.program, "--node", nodes[0].data, "submit", file]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if measure.until(lambda: any(node.is_busy() for node in nodes), 60) is None:
            raise RuntimeError("the task to be lost did not start in a minute")
        time.sleep(1)
        victim = next(node for node in nodes if node.is_busy())
        os.kill(victim.process.pid, number)
        return measure.until(lambda: any(node.is_busy() for node in nodes if node is not victim), limit)


class Node:
    """A running node, and a connection to its API."""

    def __init__(self, swarm, number, slots, *more):
        self.swarm = swarm
        self.data = os.path.join(swarm.directory, f"node{number}")
        self.specs = {}
        command = [swarm.program, "start", "--data", self.data, "--slots", str(slots), *more]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        self.process = machine.start(command, stdout=subprocess.PIPE, text=True)
        self.address = None
        for line in self.process.stdout:
            match line.split():
                case ["listen", address]:
                    self.address = self.address or address
                case ["ready"]:
                    break
        else:
            raise RuntimeError("the node did not start")
        self.api = Api(os.path.join(self.data, "api.sock"))

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def get(self, path):
        return self.api.ask("GET", path)

    def is_busy(self):
        return self.get("/v1/status")["slots_busy"] > 0

    def submit(self, spec):
        return self.api.ask("POST", "/v1/jobs", spec)["job"]

    def is_done(self, job):
        state = self.get(f"/v1/jobs/{job}")["state"]
        if state not in ("running", "done"):
            raise RuntimeError(f"the job is {state}")
        return state == "done"

    def until_done(self, job, limit=600.0, not_before=0.0):
        if measure.until(lambda: self.is_done(job), limit, not_before) is None:
            raise RuntimeError("the job did not end in time")

    def encoded(self, file):
        """What `swarm submit` sends for a job file."""
        if file not in self.specs:
            self.specs[file] = self.overheard(file)
        return self.specs[file]

    def overheard(self, file):
        directory = os.path.join(self.swarm.directory, "overheard")
        os.makedirs(directory, exist_ok=True)
        with Between(os.path.join(directory, "api.sock"), self.api.path) as between:
            command = [self.swarm.program, "--node", directory, "submit", file, "-o", "id"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        self.until_done(done.stdout.strip())
        return between.body(b"POST /v1/jobs ")


class Between:
    """A socket that passes everything on to another one and writes down what clients say, one text a connection."""

    def __init__(self, path, onward):
        self.onward, self.path, self.said = onward, path, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            node = socket.socket(socket.AF_UNIX)
            node.connect(self.onward)
            self.said.append(bytearray())
            for source, sink, said in ((client, node, self.said[-1]), (node, client, bytearray())):
                threading.Thread(target=pass_on, args=(source, sink, said), daemon=True).start()

    def body(self, request):
        """The body of the first such request."""
        for said in map(bytes, self.said):
            if (at := said.find(request)) >= 0:
                head, _, rest = said[at:].partition(b"\r\n\r\n")
                length = re.search(rb"(?im)^content-length: *(\d+)", head)
                return rest[: int(length[1])]
        raise RuntimeError("the command did not submit a job")


def pass_on(source, sink, said):
    try:
        while piece := source.recv(1 << 16):
            said += piece
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Api:
    """HTTP over a node's socket, one connection for all requests."""

    def __init__(self, path):
        self.path = path
        self.connection = UnixConnection(path)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


if __name__ == "__main__":
    measure.serve(Swarm(*sys.argv[1:]))
