"""What happens to a node at random: what is wanted changes, the agent ends, registry, disk and clients misbehave."""

import contextlib
import errno
import os
import signal
import subprocess
import time

import process
from gate import Mood
from image import KIB, MIB
from invariants import Violation
from node import Ended
from points import ERRNOS

KILL, KILL_AT_START, STOP = ENDS = ("kill the agent", "kill the agent as it starts", "stop the agent")
RELOAD = "reload the agent"
# The exit codes of an agent that cannot start because of its disk.
DISK_CODES = (73, 75)
# That of a command that has found something damaged.
DAMAGED_CODE = 65
# An agent that takes longer to stop is stuck.
STOP_S = 15
# What a command may take, whatever is wrong with registry and disk.
COMMAND_S = 60
MOODS = (
    *(Mood("down"), Mood("refuses", status=500), Mood("refuses", status=503), Mood("refuses", status=429)),
    *(Mood("stalls", after=0), Mood("stalls", after=300 * KIB)),
    *(Mood("cuts", after=100 * KIB), Mood("cuts", after=2 * MIB)),
    *(Mood("lies"), Mood("slow", rate=256 * KIB), Mood("slow", rate=4 * MIB)),
)
# How much is left free of the disk; the agent is never to use the last 4 MiB (`[cache] reserve`).
LEFT = (0, 4 * KIB, 64 * KIB, 1 * MIB, 5 * MIB, 16 * MIB)
CMDLINES = ("quiet", "console=ttyS0", "console=ttyS0 root=/dev/vda ro", "init=/bin/sh")


class Actions:
    """All that can happen. Every choice is drawn from `choice`, and none depends on how long anything takes."""

    def __init__(self, choice, node, fleet, gate, points, volume, invariants):
        self._choice = choice
        self._node = node
        self._fleet = fleet
        self._gate = gate
        self._points = points
        self._volume = volume
        self._invariants = invariants
        # For how many more actions the agent stays away, and each trouble lasts.
        self._away = 0
        self._troubles = {}
        # From then on the agent is not ended any more, so that what it leaks adds up.
        self.spares_the_agent = False
        self.ended = 0
        self.refused_to_start = 0
        self._kinds = {
            "publish a new image": (14, self._publish),
            "go back to an image": (5, self._go_back),
            "change a command line": (6, self._change_cmdline),
            "retire a workload or bring it back": (6, self._retire_or_return),
            "change what is wanted many times": (3, self._change_often),
            "spoil the desired state": (6, self._spoil),
            KILL: (6, self._kill),
            KILL_AT_START: (4, self._kill_at_start),
            STOP: (3, self._stop),
            RELOAD: (4, self._reload),
            "registry fails": (10, self._registry_fails),
            "fill the disk": (7, self._fill),
            "disk fails": (7, self._disk_fails),
            "eci gc": (4, self._gc),
            "eci reconcile": (4, self._reconcile),
            "eci status": (2, self._status),
            "clients hang up": (4, self._hang_up),
        }
        if node.eci("fsck", "--help").returncode == 0:
            self._kinds["damage a blob"] = (2, self._damage)

    def kinds(self):
        """What all can happen."""
        return list(self._kinds)

    def act(self):
        """Lets something happen; its kind, and what exactly it was."""
        weights = [weight for weight, _ in self._kinds.values()]
        [kind] = self._choice.choices(list(self._kinds), weights)
        what = self._kinds[kind][1]()
        # Drawn all the same, so that what is drawn next does not depend on the time.
        return RELOAD if self.spares_the_agent and kind in ENDS else kind, what

    def pause(self):
        """Lets some time go by; some of the time none."""
        time.sleep(self._choice.choice((0, 0, 0.02, 0.1, 0.3, 0.6)))

    def pass_on(self):
        """Ends what has lasted long enough."""
        for trouble, (left, heal) in list(self._troubles.items()):
            if left > 0:
                self._troubles[trouble] = (left - 1, heal)
            else:
                self._heal(trouble)
        if self._node.process is None:
            self._away -= 1
            if self._away < 0:
                self._start()

    def heal(self):
        """Ends all trouble, and has the node want what it is to run."""
        for trouble in list(self._troubles):
            self._heal(trouble)
        if self._node.process is None:
            self._start()
        self._install()

    def _heal(self, trouble):
        self._troubles.pop(trouble)[1]()

    def _lasts(self, trouble, heal):
        """The trouble lasts for some actions."""
        self._troubles[trouble] = (self._choice.randrange(3), heal)

    def _install(self):
        self._node.install(self._fleet.desired())

    def _any(self, workloads):
        return self._choice.choice([w for w in self._fleet.workloads if workloads(w)])

    # What is wanted.

    def _publish(self):
        workload = self._any(lambda w: w.is_wanted)
        size = self._fleet.publish(workload)
        self._install()
        return f"{workload.name}: {size} bytes"

    def _go_back(self):
        workload = self._any(lambda w: w.is_wanted)
        number = self._choice.randrange(len(workload.images))
        self._fleet.want(workload, workload.images[number])
        self._install()
        return f"{workload.name}: image {number} of {len(workload.images)}"

    def _change_cmdline(self):
        workload = self._any(lambda w: w.is_wanted)
        workload.cmdline = self._choice.choice(CMDLINES)
        self._install()
        return f"{workload.name}: {workload.cmdline}"

    def _retire_or_return(self):
        workload = self._choice.choice(self._fleet.workloads)
        if workload.is_wanted and sum(w.is_wanted for w in self._fleet.workloads) == 1:
            return f"{workload.name} is the last, and stays"
        if workload.is_wanted:
            self._invariants.unwanted(workload)
        workload.is_wanted = not workload.is_wanted
        self._install()
        return f"{workload.name}: {'returns' if workload.is_wanted else 'is retired'}"

    def _change_often(self):
        workload = self._any(lambda w: w.is_wanted)
        count = self._choice.randrange(3, 9)
        for _ in range(count):
            workload.cmdline = self._choice.choice(CMDLINES)
            if workload.tag is None:
                workload.wanted = self._choice.choice(workload.images)
            self._install()
            time.sleep(self._choice.choice((0, 0.005, 0.05)))
        return f"{workload.name}: {count} times"

    def _spoil(self):
        text = self._fleet.desired().encode()
        # Within the last text, so that no file is left that is valid and wants less.
        cut = self._choice.randrange(text.rindex(b'image = "') + len(b'image = "'), text.rindex(b'"'))
        spoilt = {
            "nothing is left": b"",
            "cut short": text[:cut],
            "no text": b"\xff\xfe" + text,
            "an unknown key": text + b"colour = 1\n",
            "a wrong reference": b'image = "UPPER CASE"\n',
            "too long": b"#" * (8 * MIB),
        }
        how = self._choice.choice(["absent", *spoilt])
        is_renamed, is_mended = self._choice.random() < 0.5, self._choice.random() < 0.5
        if how == "absent":
            self._node.undesire()
        elif is_renamed:
            self._node.install_bytes(spoilt[how])
        else:
            self._node.scribble(spoilt[how])
        if is_mended:
            time.sleep(self._choice.choice((0, 0.03, 0.2)))
            self._install()
        return f"{how}{', renamed' if is_renamed else ''}{', and mended' if is_mended else ''}"

    # The agent.

    def _kill(self):
        delay, self._away = self._choice.choice((0, 0, 0.01, 0.05, 0.2)), self._choice.randrange(3)
        if self.spares_the_agent:
            return self._reload()
        time.sleep(delay)
        if self._node.process is not None:
            self._look_alive()
            self._node.kill()
            self.ended += 1
        return f"away for {self._away}"

    def _kill_at_start(self):
        # A start takes some milliseconds, more on a slow disk.
        delays = [self._choice.random() * 0.03 for _ in range(self._choice.randrange(1, 4))]
        if self.spares_the_agent:
            return self._reload()
        for delay in delays:
            if self._node.process is not None:
                self._node.kill()
            self._node.spawn()
            time.sleep(delay)
            self.ended += 1
        self._node.kill()
        self._start()
        return " ".join(f"{1000 * delay:.1f} ms" for delay in delays)

    def _stop(self):
        self._away = self._choice.randrange(3)
        if self.spares_the_agent:
            return self._reload()
        if self._node.process is not None:
            self._look_alive()
            process, began = self._node.process, time.monotonic()
            self._node.stop()
            took = time.monotonic() - began
            self.ended += 1
            if process.returncode != 0 or took > STOP_S:
                raise Violation(f"the agent was told to stop, and ended with {process.returncode} after {took:.1f} s")
        return f"away for {self._away}"

    def _reload(self):
        if self._node.process is not None:
            self._node.process.send_signal(signal.SIGHUP)
        return ""

    def _start(self):
        """Starts the agent. Where the disk does not let it, it is to say so, and to start once that is over."""
        try:
            self._node.start()
        except Ended as ended:
            troubles = [trouble for trouble in ("fill", "disk") if trouble in self._troubles]
            if not troubles or ended.code not in DISK_CODES:
                raise Violation(f"the agent does not start: {ended}") from ended
            self.refused_to_start += 1
            for trouble in troubles:
                self._heal(trouble)
            try:
                self._node.start()
            except Ended as again:
                raise Violation(f"the agent does not start after {ended.code}: {again}") from again

    def _look_alive(self):
        if (code := self._node.process.poll()) is not None:
            raise Violation(f"the agent ended by itself, with {code}: {self._node.log()}")

    # Registry and disk.

    def _registry_fails(self):
        mood = self._choice.choice(MOODS)
        self._gate.be(mood)
        self._lasts("registry", self._registry_is_well)
        return str(mood)

    def _registry_is_well(self):
        self._gate.be(Mood("well"))

    def _fill(self):
        leave = self._choice.choice(LEFT)
        self._lasts("fill", self._volume.empty)
        if not self._volume.can_be_filled:
            return "only root can"
        self._volume.fill(leave)
        return f"{leave} bytes left"

    def _disk_fails(self):
        part = self._choice.choice((0.02, 0.1, 0.3, 1.0))
        answers = self._choice.choice([*((code,) for code in ERRNOS), (*ERRNOS, "short")])
        self._points.fall_ill(part, answers)
        self._lasts("disk", self._points.recover)
        names = [errno.errorcode.get(answer, answer) for answer in answers]
        return f"{part:.0%} of all changes: {' '.join(names)}"

    def _damage(self):
        """Damages a file that runs or is to run. On disk it is one with the cache's, unless it was copied."""
        workload = self._any(lambda w: w.is_wanted)
        _, digest, size = self._choice.choice(workload.wanted.files)
        at = self._choice.randrange(size)
        self.heal()
        path = os.path.join(self._node.state, "cache/blobs", digest.replace(":", "/"))
        if not os.path.exists(path):
            return f"{workload.name}: {digest} is not there yet"
        with open(path, "r+b") as file:
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
            os.fsync(file.fileno())
        # An update may have come upon it before.
        found = self._node.eci("fsck").returncode
        if found not in (0, DAMAGED_CODE):
            raise Violation(f"eci fsck ended with {found} after byte {at} of {path} was changed")
        self._command("fsck", "--repair")
        return f"{workload.name}: byte {at} of {digest}, found with {found}"

    # Commands and clients.

    def _gc(self):
        return self._command("gc", has_to_work=not {"fill", "disk"} & set(self._troubles))

    def _reconcile(self):
        return self._command("reconcile", has_to_work=self._node.process is not None)

    def _status(self):
        return self._command("status")

    def _command(self, *arguments, has_to_work=True):
        began = time.monotonic()
        ran = self._node.eci(*arguments)
        if time.monotonic() - began > COMMAND_S or (has_to_work and ran.returncode != 0):
            raise Violation(f"eci {' '.join(arguments)} ended with {ran.returncode}: {ran.stderr}")
        return f"ended with {ran.returncode}"

    def _hang_up(self):
        how = self._choice.choice(("events", "half a request", "nothing", "a follower is killed", "many"))
        count = self._choice.randrange(1, 6)
        if self._node.process is None:
            return "nobody is there"
        with contextlib.suppress(OSError):
            if how == "a follower is killed":
                self._kill_followers(count)
            elif how == "many":
                self._connect(10 * count, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            else:
                requests = {"events": b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n", "half a request": b"GET /v1/sta"}
                self._connect(count, requests.get(how, b""))
        return f"{how}, {count}"

    def _connect(self, count, request):
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                connection = stack.enter_context(contextlib.closing(self._node.connect(5)))
                connection.connect()
                connection.sock.sendall(request)
            time.sleep(0.05)

    def _kill_followers(self, count):
        env, commands = process.environment(self._node.root), (["events"], ["status", "--watch"])
        followers = [
            subprocess.Popen(
                self._node.command(*commands[number % 2]),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(count)
        ]
        time.sleep(0.1)
        for follower in followers:
            follower.kill()
            follower.wait()
