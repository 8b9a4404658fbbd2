"""What the figures were measured on, as far as it matters to them."""

import datetime
import os
import platform
import re
import subprocess
import textwrap


def describe(binary, directories):
    """A paragraph: program, machine, file systems, peers."""
    day = datetime.date.today().isoformat()
    kernel = ".".join(platform.release().split(".")[:2])
    memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    places = ", ".join(f"{name} is {_file_system(path)}" for name, path in directories.items())
    load = os.getloadavg()[0]
    text = (
        f"Measured on {day} with {_version(binary)} on Linux {kernel}: {os.cpu_count()} cores ({_cpu()}), "
        f"{memory} GiB of memory; {places}. Beside it: {_version('skopeo')}, {_version('curl')}, "
        f"{_version('openssl', 'version')}, docker-registry {_registry()}. "
        f"Load average at the end, this run included: {load:.1f}."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def describe_soak(binary, seconds, seed):
    """A paragraph on a run that lasted so long."""
    kernel = ".".join(platform.release().split(".")[:2])
    text = (
        f"{seconds / 60:.0f} minutes on {datetime.date.today().isoformat()}, seed {seed}, with {_version(binary)} on "
        f"Linux {kernel}: {os.cpu_count()} cores."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read()
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    accelerated = bool(flags) and bool({"sha_ni", "sha2"} & set(flags[1].split()))
    hashing = "with" if accelerated else "without"
    return f"{model[1] if model else platform.machine()}, {hashing} instructions for SHA-256"


def _file_system(path):
    """The type of the file system that holds `path`."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        found = [line.split(" - ")[1].split()[0] for line in mounts if line.split()[2] == wanted]
    return found[0] if found else "unknown"


def _version(program, question="--version"):
    """Name and version, as the first line of --version says them."""
    line = subprocess.run([program, question], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return " ".join(re.sub(r"\bversion ", "", line).split()[:2])


def _registry():
    line = subprocess.run(["docker-registry", "--version"], capture_output=True, text=True, check=True).stdout
    return line.split()[-1]
