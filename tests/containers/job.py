"""One job in containers: its servers and workers, what the lead says of it, and the digest it ends with."""

import json
import pathlib
import re
import subprocess
import tempfile

from engine import LABEL, Failed, docker, until

SERVERS = 3
JOB = pathlib.Path(__file__).with_name("job.toml")
MOUNT = ("--volume", f"{JOB}:/job.toml:ro")

# A server that is gone from the network would be waited for much longer.
ANSWER_S = 2.0


class Images:
    """The two images of one tag, and the server's binary taken out of its image: it asks leads from this host."""

    def __init__(self, tag):
        self.server, self.worker = f"halflife-server:{tag}", f"halflife-worker:{tag}"
        self.directory = tempfile.TemporaryDirectory()
        self.binary = f"{self.directory.name}/halflife-server"
        taken = docker("create", "--label", LABEL, self.server)
        docker("cp", f"{taken}:/halflife-server", self.binary)
        docker("rm", taken)


class Job:
    """A job under way."""

    def __init__(self, engine, images, name, *settings, worker_options=()):
        self.engine, self.images, self.name = engine, images, name
        self.worker_options = worker_options
        self.started = 0
        kept = ("--volume", f"{engine.volume()}:/checkpoints")
        # The lead last: the order of starts does not matter.
        self.servers = [
            engine.start(
                f"{name}-server-{index}",
                images.server,
                options=(*kept, "--env", f"HALFLIFE_LEAD=http://{name}-lead:7070"),
            )
            for index in range(1, SERVERS)
        ]
        self.workers = [self.start_worker() for _ in range(4)]
        command = ("--config", "/job.toml", *settings)
        self.lead = engine.start(f"{name}-lead", images.server, *command, options=(*kept, *MOUNT))

    def start_worker(self):
        self.started += 1
        return self.engine.start(
            f"{self.name}-worker-{self.started}",
            self.images.worker,
            *("train", *self.worker_options),
            options=("--env", f"HALFLIFE_SERVER=http://{self.name}-lead:7070"),
        )

    def ask(self, *question):
        """What the lead answers, or None while it does not."""
        return self.ask_at(self.lead, *question)

    def ask_at(self, server, *question):
        """The same, by way of this server."""
        command = [self.images.binary, *question, "--lead", f"http://{server.address}:7070"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

    def status(self):
        """The lead's status, or None while there is none."""
        text = self.ask("status", "--json")
        return json.loads(text) if text else None

    def active_workers(self):
        status = self.status() or {"workers": []}
        return sum(worker["state"] in ("active", "spare") for worker in status["workers"])

    def wait_for_workers(self):
        """Until all that should take part do."""
        wanted = len(self.workers)
        until(f"{wanted} workers take part", lambda: self.active_workers() == wanted)

    def stop(self):
        until("the lead ends the job", lambda: self.ask("stop"))

    def end(self):
        """Every process ends well and every worker with the same weights: steps and digest."""
        found = set()
        for container in [*self.workers, *self.servers, self.lead]:
            code, text = container.wait(), container.logs()
            if code != 0:
                raise Failed(f"{container.alias} ended with {code}; it said:\n{text}")
            if container in self.workers:
                found.add(outcome(text))
        if len(found) != 1:
            raise Failed(f"expected one outcome of all workers, found {found}")
        return found.pop()


def outcome(text):
    """Steps and digest, as a worker tells them when the job is done."""
    steps = re.findall(r"^containers-\w+: (\d+) steps", text, re.MULTILINE)
    digests = re.findall(r"weights digest (\w+)", text)
    if not steps or not digests:
        raise Failed(f"expected a summary with a digest, found:\n{text}")
    return int(steps[-1]), digests[-1]


def embedded(engine, images, steps):
    """The digest of as many steps on one server and one worker in one process, in large blocks."""
    settings = [
        f"job.steps={steps}",
        "job.servers=1",
        "job.block_elements=262144",
        "checkpoint.every=1000000",
    ]
    command = ["local", "--config", "/job.toml"]
    for setting in settings:
        command += ["--set", setting]
    kept = ("--volume", f"{engine.volume()}:/checkpoints")
    container = engine.start(f"embedded-{steps}", images.worker, *command, options=(*kept, *MOUNT))
    code, text = container.wait(), container.logs()
    if code != 0:
        raise Failed(f"the embedded run ended with {code}:\n{text}")
    return outcome(text)[1]


def check(engine, images, steps, digest):
    """Compares with the embedded run."""
    expected = embedded(engine, images, steps)
    if digest != expected:
        raise Failed(f"after {steps} steps: expected the digest {expected} of the embedded run, found {digest}")
    print(f"  {steps} steps: the digest is that of the embedded run, {digest[:16]}")
