"""The programs that the agent is held beside, and the registry that serves all of them."""

import http.client
import os
import shutil
import socket
import subprocess
import time

import process

PACKAGES = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "curl": "curl",
    "openssl": "openssl",
    "umoci": "umoci",
}
REPOSITORY = "bench/image"


def missing_packages(programs=tuple(PACKAGES)):
    """The Debian packages of those programs that are not there."""
    return sorted({PACKAGES[program] for program in programs if shutil.which(program) is None})


class Origin:
    """Where images are to be had: the registry, or the near end of a link to it."""

    def __init__(self, host=None):
        self.host = host

    def reference(self, image):
        """The image by digest."""
        return f"{self.host}/{REPOSITORY}@{image.manifest}"

    def tagged(self, image):
        """The image by tag."""
        return f"{self.host}/{REPOSITORY}:{image.manifest.rpartition(':')[2][:12]}"

    def last_file(self, image):
        """The URL of the image's last file."""
        return f"http://{self.host}/v2/{REPOSITORY}/blobs/{image.last}"


class Registry(Origin):
    """Debian's docker-registry on a free port of the loopback, storing below `directory`."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        self._env = process.environment(directory)
        self._process = None

    def __enter__(self):
        self.host = f"127.0.0.1:{_free_port()}"
        config = os.path.join(self.directory, "config.yml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(_CONFIG.format(directory=self.directory, host=self.host))
        with open(os.path.join(self.directory, "log"), "wb") as log:
            command = ["docker-registry", "serve", config]
            self._process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._wait()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends the server, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push(self, image, name=None):
        """Puts an image into the registry, by a name of its own where none is given."""
        target = f"docker://{self.host}/{name}" if name else f"docker://{self.tagged(image)}"
        command = ["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{image.layout}", target]
        process.run(command, _skopeo_environment(self.directory))

    def _wait(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection(self.host, timeout=5)
                connection.request("GET", "/v2/")
                connection.getresponse().read()
                return
            except OSError:
                time.sleep(0.05)
            finally:
                connection.close()
        self.stop()
        raise RuntimeError("docker-registry does not answer")


_CONFIG = """\
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {directory}/store
http:
  addr: {host}
"""


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _skopeo_environment(home):
    """With skopeo's notes of blobs below `home`: as root it would keep them in /var/lib, whoever's HOME it has."""
    return dict(process.environment(home), _CONTAINERS_ROOTLESS_UID="1", XDG_DATA_HOME=os.path.join(home, "data"))


def skopeo_copy(origin, image, directory):
    """`skopeo copy` of the image into a directory."""
    source = f"docker://{origin.reference(image)}"
    command = ["skopeo", "copy", "--src-tls-verify=false", source, f"dir:{os.path.join(directory, 'copy')}"]
    return process.run(command, _skopeo_environment(directory))


def curl(origin, image, directory):
    """`curl -o` of the image's last file alone, without a hash, into a directory."""
    command = ["curl", "--silent", "--show-error", "--fail", "-o", _blob(directory), origin.last_file(image)]
    return process.run(command, process.environment(directory))


def fsync(directory):
    """Makes durable what curl wrote, as the agent does by itself."""
    began, cpu = time.monotonic(), time.thread_time()
    _sync(_blob(directory))
    _sync(directory)
    return process.Used(time.monotonic() - began, time.thread_time() - cpu, 0)


def openssl(directory):
    """Hashes what curl wrote, as the agent does by itself."""
    return process.run(["openssl", "dgst", "-sha256", _blob(directory)], process.environment(directory))


def openssl_all(home, paths):
    """Hashes files one after another."""
    return process.run(["openssl", "dgst", "-sha256", *paths], process.environment(home))


def umoci(home, *arguments):
    """A command of umoci's."""
    return process.run(["umoci", *arguments], process.environment(home))


def _blob(directory):
    return os.path.join(directory, "blob")


def durable_write(directory):
    """Replaces a small file durably, the least that any change can cost; the seconds that it takes."""
    began = time.monotonic()
    new = os.path.join(directory, "new")
    with open(new, "wb") as file:
        file.write(b"x" * 500)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, os.path.join(directory, "file"))
    _sync(directory)
    return time.monotonic() - began


def _sync(path):
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
