"""A job whose lead is elected through etcd: it dies for good, another takes over, and the bits are the same."""

import pathlib
import re
import shutil
import tempfile

from engine import Failed, docker, run, until
from job import MOUNT, SERVERS, Job, check
from watch import Watch

LEASE_S = 2
# The lease, then another reads its blocks, and workers find it and join.
TAKEOVER_S = LEASE_S + 8.0


def etcd_image():
    """An image of this host's etcd and the libraries that it needs."""
    binary = shutil.which("etcd")
    if binary is None:
        raise Failed("an election needs etcd on this host: install Debian's etcd-server, or etcd 3.4 or newer")
    needed = re.findall(r"(/\S+)", run(["sh", "-c", f"ldd {binary} || true"]))
    with tempfile.TemporaryDirectory() as context:
        for path in [binary, *(path for path in needed if pathlib.Path(path).is_file())]:
            place = pathlib.Path(f"{context}/root{path}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(path).resolve(), place)
        pathlib.Path(f"{context}/Dockerfile").write_text(f'FROM scratch\nCOPY root /\nENTRYPOINT ["{binary}"]\n')
        docker("build", "--quiet", "--tag", "halflife-test-etcd", context)
    return "halflife-test-etcd"


class ElectedJob(Job):
    """Three servers and one to spare, of which etcd says who leads."""

    def __init__(self, engine, images, name, worker_options):
        self.engine, self.images, self.name, self.worker_options = engine, images, name, worker_options
        self.started = 0
        urls = ("--advertise-client-urls", f"http://{name}-etcd:2379", "--listen-client-urls", "http://0.0.0.0:2379")
        memory = ("--tmpfs", "/data")
        self.etcd = engine.start(f"{name}-etcd", etcd_image(), "--data-dir", "/data", *urls, options=memory)
        kept = ("--volume", f"{engine.volume()}:/checkpoints")
        self.worker_places = ("--etcd", f"http://{name}-etcd:2379", "--job", "containers")
        self.servers = [self.start_server(index, kept) for index in range(SERVERS + 1)]
        self.workers = [self.start_worker() for _ in range(4)]

    def start_server(self, index, kept):
        name = f"{self.name}-server-{index}"
        arguments = ("--config", "/job.toml", "--advertise", f"http://{name}:7070")
        arguments += ("--etcd", f"http://{self.name}-etcd:2379", "--etcd-lease", str(LEASE_S))
        return self.engine.start(name, self.images.server, *arguments, options=(*kept, *MOUNT))

    def start_worker(self):
        self.started += 1
        name = f"{self.name}-worker-{self.started}"
        return self.engine.start(name, self.images.worker, "train", *self.worker_places, *self.worker_options)

    def ask(self, *question):
        """What the lead answers, or None while there is none. Whichever server is asked goes to it, where it can be reached
        from this host by the name that it has in the containers' network."""
        for server in list(self.servers):
            answer = self.ask_at(server, *question)
            if answer is not None:
                return answer
        return None

    def leader(self):
        """The server that leads: the first in its own status, whoever was asked."""
        url = until("a server leads", self.status)["servers"][0]["url"]
        return next(server for server in self.servers if f"//{server.alias}:" in url)

    def end(self):
        self.lead = self.servers.pop()
        return super().end()


def another_takes_over(engine, images):
    job = ElectedJob(engine, images, "elected", ("--delay-ms", "10"))
    with Watch(job) as watch:
        watch.steps(20)
        job.wait_for_workers()
        lost = job.leader()
        before = watch.generation
        with watch.disturbance(f"{lost.alias}, which leads, is killed and never comes back", TAKEOVER_S, outage=True):
            lost.kill()
            job.servers.remove(lost)
        if watch.generation <= before:
            raise Failed(f"expected a generation after {before}, found {watch.generation}")
        print(f"  {job.leader().alias} leads")
        job.wait_for_workers()
        job.stop()
        steps, digest = job.end()
    check(engine, images, steps, digest)
