"""What the images promise: small, nothing but a binary, no root, nothing to write to, told to end they end."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

from engine import Failed, docker, resident_bytes, until
from job import MOUNT

BYTES_MAX = 25_000_000
# Told to end, a process has ended within this, and the engine has noticed, however busy it is.
END_WITHIN_S = 8.0


def expect(what, found, expected):
    if found != expected:
        raise Failed(f"{what}: expected {expected!r}, found {found!r}")


def all_promises(engine, images):
    for image in (images.server, images.worker):
        described(image)
    nothing_but_a_binary(images)
    waiting_processes_end(engine, images)
    commands_end(engine, images)
    first_processes_end(images)
    local_job(engine, images)


def described(image):
    found = json.loads(docker("image", "inspect", image))[0]
    size = found["Size"]
    if size >= BYTES_MAX:
        raise Failed(f"{image}: expected less than {BYTES_MAX} bytes, found {size}")
    expect(f"user of {image}", found["Config"]["User"], "65532:65532")
    labels = found["Config"]["Labels"]
    for name in ("version", "revision", "created", "source", "licenses", "title", "description"):
        if f"org.opencontainers.image.{name}" not in labels:
            raise Failed(f"{image} has no label {name}: {labels}")
    print(f"  {image}: {size / 1e6:.1f} MB, revision {labels['org.opencontainers.image.revision'][:12]}")


def nothing_but_a_binary(images):
    """The files of the server's image, without those that the engine makes for every container."""
    created = docker("create", images.server)
    try:
        archive = subprocess.Popen(["docker", "export", created], stdout=subprocess.PIPE)
        files = run_tar(archive)
    finally:
        docker("rm", created)
    ours = {file for file in files if file.split("/")[0] not in ("dev", "etc", "proc", "sys", ".dockerenv")}
    expected = {"checkpoints/", "halflife-server", "licenses/", "licenses/LICENSE-APACHE", "licenses/LICENSE-MIT"}
    expect("files of the server's image", ours, expected)


def run_tar(archive):
    listed = subprocess.run(["tar", "--list"], stdin=archive.stdout, capture_output=True, text=True, check=True)
    archive.wait()
    return listed.stdout.splitlines()


def waiting_processes_end(engine, images):
    """A server and a worker that look for their lead are told to end: they do, as themselves, and were not healthy."""
    nobody = "http://192.0.2.1:7070"
    server = engine.start("waiting-server", images.server, options=("--env", f"HALFLIFE_LEAD={nobody}"))
    worker = engine.start("waiting-worker", images.worker, options=("--env", f"HALFLIFE_SERVER={nobody}"))
    until("the waiting server says that it does not serve", lambda: is_unhealthy(server))
    resident = resident_bytes(worker.state()["Pid"])
    if resident:
        print(f"  a worker that waits for a lead holds {resident / 1e6:.1f} MB")
    ends(server, 0)
    ends(worker, 143)


def is_unhealthy(container):
    """Whether it answers by now, as one without a lead must."""
    try:
        container.execute("/halflife-server", "healthcheck")
    except Failed as error:
        return "answers, but does not serve" in str(error)
    raise Failed("a server without a lead is healthy")


def ends(container, code):
    begin = time.monotonic()
    container.terminate()
    ended = container.wait()
    took = time.monotonic() - begin
    expect(f"exit code of {container.alias}, which said {container.logs()!r}", ended, code)
    if took > END_WITHIN_S:
        raise Failed(f"{container.alias}: expected its end within {END_WITHIN_S} s of SIGTERM, took {took:.1f} s")


def commands_end(engine, images):
    """Also what is no server ends when it is told to, as the first process of its container."""
    kept = ("--volume", f"{engine.volume()}:/checkpoints")
    lead = engine.start("healthy", images.server, "--config", "/job.toml", options=(*kept, *MOUNT))
    until("the lead is healthy", lambda: is_healthy(lead))
    resident = resident_bytes(lead.state()["Pid"])
    if resident:
        print(f"  a server that waits for others holds {resident / 1e6:.1f} MB")
    watching = engine.start("watching", images.server, "status", "--watch", "--lead", "http://healthy:7070")
    until("the status is shown", lambda: "waiting for servers" in watching.logs())
    ends(watching, 143)
    ends(lead, 0)


def is_healthy(container):
    try:
        return container.execute("/halflife-server", "healthcheck").endswith("http://127.0.0.1:7070 serves")
    except Failed:
        return False


def first_processes_end(images):
    """A signal in the first milliseconds of the first process of a namespace, which has no default way to end."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        print("  SKIPPED signals at the start: they need root and unshare on this host")
        return
    command = ["unshare", "--pid", "--fork", "--kill-child", images.binary]
    command += ["--listen", "127.0.0.1:0", "--lead", "http://192.0.2.1:7070"]
    for _ in range(40):
        outside = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        inside = until("the binary runs", lambda: first_process(outside.pid, images.binary), 10, 0.0005)
        # Before that, the kernel and the language's runtime have the process.
        until("the program holds SIGTERM back", lambda: minds(inside, signal.SIGTERM), 10, 0.0005)
        time.sleep(random.random() * 0.02)
        os.kill(inside, signal.SIGTERM)
        try:
            outside.communicate(timeout=END_WITHIN_S)
        except subprocess.TimeoutExpired:
            outside.kill()
            raise Failed("SIGTERM in the first milliseconds of a first process is lost") from None
        expect("exit code of a first process", outside.returncode, 0)


def first_process(parent, binary):
    """The child of `unshare`, once it is our binary."""
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
        children = file.read().split()
    for child in children:
        try:
            if os.path.samefile(f"/proc/{child}/exe", binary):
                return int(child)
        except OSError:
            pass
    return None


def minds(process, wanted):
    """Whether a process holds this signal back or has a handler for it."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> (wanted - 1) & 1 for mask in masks)


def local_job(engine, images):
    """The README's first command, in a container that has nothing else."""
    container = engine.start("local", images.worker, "local")
    expect("exit code of `local`", container.wait(), 0)
    if "weights digest" not in container.logs():
        raise Failed(f"no digest in {container.logs()}")
