"""Programs run and measured from outside: time, CPU seconds, peak memory, context switches."""

import concurrent.futures
import os
import subprocess
import threading
import time
from dataclasses import dataclass

# How often a program's peak is read while it runs. What it grows by in its last moments is missed.
PEAK_EVERY_S = 0.02


@dataclass
class Used:
    """What a run took: seconds, CPU seconds, and peak resident memory in bytes."""

    seconds: float
    cpu_s: float
    peak_bytes: int

    def then(self, other):
        """This and another run, one after the other."""
        return Used(
            self.seconds + other.seconds, self.cpu_s + other.cpu_s, max(self.peak_bytes, other.peak_bytes)
        )


def environment(home):
    """For every program: no proxies, no credentials, no settings of whoever runs this."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": home, "LC_ALL": "C.UTF-8"}


def run(command, env):
    """Runs a program to its end. It must succeed."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with _Peak(process.pid) as peak:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    with process.stderr as stderr:
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {stderr.read().decode(errors='replace').strip()}")
    return Used(seconds, usage.ru_utime + usage.ru_stime, peak.bytes)


def together(runs):
    """Starts all at once; what they took together, until the last has ended. Of memory, the sum of their peaks."""
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        used = list(pool.map(lambda run: run(), runs))
    seconds = time.monotonic() - began
    return Used(seconds, sum(run.cpu_s for run in used), sum(run.peak_bytes for run in used))


class _Peak:
    """Watches the peak of a program while it runs.

    The ru_maxrss of wait4 would not do: it counts the memory of the parent between fork and exec as well, and so is
    never below what this interpreter takes.
    """

    def __init__(self, pid):
        self.bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _watch(self):
        while not self._ended.wait(PEAK_EVERY_S):
            self.bytes = max(self.bytes, peak_bytes(self._pid) or 0)


def peak_bytes(pid):
    """The most resident memory that a program has had; none once it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            lines = [line for line in status if line.startswith("VmHWM:")]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(lines[0].split()[1]) * 1024 if lines else None


def resident_bytes(pid):
    """The resident memory of a program now."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def descriptors(pid):
    """What a program has open."""
    directory, found = f"/proc/{pid}/fd", []
    for name in os.listdir(directory):
        try:
            found.append(os.readlink(os.path.join(directory, name)))
        except FileNotFoundError:
            # Closed since it was listed.
            pass
    return found


def cpu_seconds(pid):
    """The CPU seconds of a program that runs, its ended threads included."""
    # The clock that clock_getcpuclockid(3) names. The ticks in /proc/PID/stat are too long for what takes milliseconds.
    return time.clock_gettime((~pid << 3) | 2)


def context_switches(pid):
    """How often the threads of a program have left the CPU, by thread."""
    counts = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8") as status:
            counts[thread] = sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
    return counts
