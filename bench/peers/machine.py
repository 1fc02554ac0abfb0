"""The machine: what state it is in, a network for ourselves alone, and the processes that we start.

Always true: whatever a process of ours starts, however it starts it, is a descendant of the process that called
`adopt`, and `end_descendants` ends those by their ids and nothing else.
"""

import ctypes
import fcntl
import os
import platform
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x04000000, 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

# Two cores that are ours alone give two spinners twice what one has; below this, a sitting says nothing.
SPINNERS_MIN = 1.8
SPIN_SECONDS = 1.0
SPIN = """
import sys, time
sys.stdin.readline()
end, rounds = time.perf_counter() + float(sys.argv[1]), 0
while time.perf_counter() < end:
    for _ in range(1000): rounds += 1
print(rounds)
"""
# Between asking a process to end and ending it.
GRACE_SECONDS = 3.0


def state():
    """What there is and how busy it is, and what two spinners get against one: the median of three pairs."""
    one, two = [], []
    for _ in range(3):
        one.append(spin(1))
        two.append(spin(2))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "spinners": statistics.median(both / alone for alone, both in zip(one, two)),
    }


def cpu():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def spin(count):
    """Rounds that so many spinners make together."""
    command = [sys.executable, "-c", SPIN, str(SPIN_SECONDS)]
    spinners = [start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    for spinner in spinners:
        spinner.stdin.write(b"\n")
        spinner.stdin.flush()
    return sum(int(spinner.communicate()[0]) for spinner in spinners)


def own_network():
    """Moves this process into a network that has nothing but a loopback. Raises OSError when that is not allowed."""
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWNET | CLONE_NEWUTS) != 0:
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
    # Whoever looks up this host's name finds the loopback without asking anybody.
    socket.sethostname("localhost")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        loopback = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, loopback)
        (flags,) = struct.unpack_from("H", loopback, 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def adopt():
    """From here on, what our descendants leave behind becomes our child."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command, at_parents_end=signal.SIGKILL, **options):
    """Starts a process that gets a signal when the process that called this ends, however it ends."""
    follow = lambda: LIBC.prctl(PR_SET_PDEATHSIG, at_parents_end, 0, 0, 0)
    return subprocess.Popen(command, preexec_fn=follow, **options)


def end_descendants():
    """Ends everything under this process: asks first, then kills, until nothing is left."""
    for asked in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := descendants()) and time.monotonic() < deadline:
            for pid in left:
                send(pid, signal.SIGCONT)
                send(pid, asked)
            time.sleep(0.05)
            reap()
    reap()


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def reap():
    """Takes note of children that ended, those that we were left with included."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants():
    """The ids of all living processes under this one."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                status, parent = file.read().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if status != "Z":
            children.setdefault(int(parent), []).append(int(name))
    found, unseen = [], [os.getpid()]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found
