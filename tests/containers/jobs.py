"""Whole jobs in containers: one that nobody disturbs, and one to which everything happens."""

import time

import links
from engine import docker
from job import Job, check
from watch import Watch

LEASE_S = 1.0
# What a poll of the status, docker on two busy cores and whatever it starts meanwhile add to a lease.
SLACK_S = 4.0
# A worker that is lost holds the others up for no more than a lease (the design's promise P5).
WORKER_S = LEASE_S + SLACK_S
# So long is a worker away: a job that waited for it to come back would stand still for longer than it may.
AWAY_S = WORKER_S + 2.0
# A server that is back reads its blocks, workers join, and steps since the last checkpoint are computed again; a connection
# that was cut is noticed, or goes on with TCP's next attempt.
RECOVERY_S = 8.0
OUTAGE_S = 3.0


def undisturbed(engine, images):
    # Long enough for a worker whose first look for a name is lost, which takes glibc 5 s to notice: one that comes when the
    # job is over finds nobody.
    job = Job(engine, images, "calm", "--set", "job.steps=1000", worker_options=("--delay-ms", "10"))
    with Watch(job) as watch:
        job.lead.execute("/halflife-server", "healthcheck")
        watch.steps(1)
        print(f"  first step {watch.first_step_s:.1f} s after the last container was started")
        job.wait_for_workers()
        steps, digest = job.end()
    check(engine, images, steps, digest)


def disturbed(engine, images):
    # Each gradient takes a while, or there would be too many steps to compute once more.
    job = Job(engine, images, "faulty", worker_options=("--delay-ms", "10"))
    with Watch(job) as watch:
        watch.steps(20)
        job.wait_for_workers()
        lost_workers(job, watch)
        scaling(job, watch)
        bad_links(job, watch)
        lost_servers(job, watch)
        job.wait_for_workers()
        generation = watch.generation
        job.stop()
        steps, digest = job.end()
    print(f"  generation {generation} at the end")
    check(engine, images, steps, digest)


def lost_workers(job, watch):
    worker = job.workers[0]
    with watch.disturbance("a worker is killed and started again", WORKER_S):
        worker.kill()
        time.sleep(AWAY_S)
        worker.start()
    job.wait_for_workers()
    with watch.disturbance("a worker is paused for longer than a lease", WORKER_S):
        worker.pause()
        time.sleep(AWAY_S)
        worker.unpause()
    job.wait_for_workers()
    worker = job.workers[1]
    with watch.disturbance("a worker loses its network and gets it back", WORKER_S):
        worker.disconnect()
        time.sleep(AWAY_S)
        worker.reconnect()
    job.wait_for_workers()


def scaling(job, watch):
    with watch.disturbance("4 workers become 1", WORKER_S):
        gone = [worker.id for worker in job.workers[1:]]
        docker("stop", *gone)
        docker("rm", *gone)
        del job.workers[1:]
    with watch.disturbance("1 worker becomes 6", WORKER_S):
        while len(job.workers) < 6:
            job.workers.append(job.start_worker())
        job.wait_for_workers()


def bad_links(job, watch):
    containers = [*job.workers[:3], job.servers[0]]
    done = links.worsen(containers)
    if done is None:
        print("  SKIPPED delay and loss: this needs root, nsenter and tc on the engine's host, and a kernel with netem")
        return
    with watch.disturbance(f"{done} for 3 workers and a server", RECOVERY_S):
        time.sleep(OUTAGE_S)
        links.mend(containers)


def lost_servers(job, watch):
    server = job.servers[0]
    with watch.disturbance("a server is killed and started again", RECOVERY_S, outage=True):
        server.kill()
        server.start()
    with watch.disturbance("a server is paused for longer than a lease", WORKER_S, outage=True):
        server.pause()
        time.sleep(OUTAGE_S)
        server.unpause()
    with watch.disturbance("a server loses its network and gets it back", RECOVERY_S, outage=True):
        job.servers[1].disconnect()
        time.sleep(OUTAGE_S)
        job.servers[1].reconnect()
    with watch.disturbance("the lead is killed and started again", RECOVERY_S, outage=True):
        job.lead.kill()
        job.lead.start()
    with watch.disturbance("everything is killed and started again", RECOVERY_S, outage=True):
        all_of_it = [container.id for container in [job.lead, *job.servers, *job.workers]]
        docker("kill", *all_of_it)
        docker("start", *all_of_it)
