"""The Docker engine, as far as these tests need it: containers on a network of their own, all gone at the end."""

import json
import os
import pathlib
import random
import subprocess
import time

NAME = f"halflife-test-{os.getpid()}"
LABEL = f"io.halflife.test={NAME}"
# As deploy/compose.yaml runs them.
CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m")


class Failed(Exception):
    """A command of the engine did not succeed."""


def run(command, timeout_s=120):
    """Standard output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def docker(*arguments):
    return run(["docker", *arguments])


class Engine:
    """What one run of the tests has made on the engine. A context, at whose end nothing of it is left."""

    def __enter__(self):
        for _ in range(20):
            # Fixed addresses need a range of our own; one that is taken is refused.
            self.range = f"10.{random.randint(64, 250)}"
            try:
                docker("network", "create", "--label", LABEL, "--subnet", f"{self.range}.0.0/16", NAME)
                break
            except Failed as error:
                refused = error
        else:
            raise refused
        self.hosts = 10
        self.volumes = 0
        return self

    def __exit__(self, *_):
        ids = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").split()
        if ids:
            docker("rm", "--force", "--volumes", *ids)
        volumes = docker("volume", "ls", "--quiet", "--filter", f"label={LABEL}").split()
        if volumes:
            docker("volume", "rm", *volumes)
        docker("network", "rm", NAME)

    def volume(self):
        self.volumes += 1
        return docker("volume", "create", "--label", LABEL, f"{NAME}-{self.volumes}")

    def start(self, name, image, *command, options=()):
        """Starts a container that the others know as `name`."""
        self.hosts += 1
        address = f"{self.range}.{self.hosts // 256}.{self.hosts % 256}"
        container = Container(f"{NAME}-{name}", name, address)
        at = ("--network", NAME, "--network-alias", name, "--ip", address)
        docker("run", "--detach", "--name", container.id, "--label", LABEL, *at, *CONFINED, *options, image, *command)
        return container


class Container:
    """One container."""

    def __init__(self, id, alias, address):
        self.id, self.alias, self.address = id, alias, address

    def kill(self):
        docker("kill", "--signal", "KILL", self.id)

    def terminate(self):
        docker("kill", "--signal", "TERM", self.id)

    def start(self):
        docker("start", self.id)

    def pause(self):
        docker("pause", self.id)

    def unpause(self):
        docker("unpause", self.id)

    def disconnect(self):
        docker("network", "disconnect", NAME, self.id)

    def reconnect(self):
        """With the address from before, as a cable that is plugged in again."""
        docker("network", "connect", "--ip", self.address, "--alias", self.alias, NAME, self.id)

    def execute(self, *command):
        return docker("exec", self.id, *command)

    def state(self):
        return json.loads(docker("inspect", "--format", "{{json .State}}", self.id))

    def process(self):
        """The process's id on this host."""
        return self.state()["Pid"]

    def logs(self):
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def wait(self, timeout_s=60):
        """Its exit code, once it has ended."""
        try:
            return int(run(["docker", "wait", self.id], timeout_s))
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.alias} does not end within {timeout_s} s; it said:\n{self.logs()}") from None


def resident_bytes(process):
    """Of a process of this host; None when it has just ended, or is another host's."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def until(what, is_so, timeout_s=60, pause_s=0.05):
    """Waits until `is_so()` gives something true, and gives that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = is_so()
        if found:
            return found
        time.sleep(pause_s)
    raise Failed(f"never within {timeout_s} s: {what}")
