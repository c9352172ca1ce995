"""Hours of a job whose workers come and go and whose servers are restarted: no process grows, no bit changes.

Usage: soak.py TAG MINUTES SEED DIRECTORY. Writes memory.csv and memory.svg to the directory. One worker and one server are
never touched, so that there are processes as old as the job.
"""

import collections
import pathlib
import random
import statistics
import sys
import time

import plot
from engine import Engine, Failed, docker, resident_bytes
from job import Images, Job, check
from watch import HANG_S, Watch

SAMPLE_S = 5.0
# Between one event and the next.
PAUSE_S = (2.0, 20.0)
WORKERS = (2, 7)
# A life shorter than this says nothing about growth.
LIFE_MIN_S = 600.0
# What one quarter of a life may have more than the one before: the allocator's, and what a larger cluster needs.
GROWTH_MAX, GROWTH_MAX_BYTES = 0.05, 1_000_000


class Memory:
    """Resident memory of every process of the job over time."""

    def __init__(self, job):
        self.job, self.begin = job, time.monotonic()
        self.samples = collections.defaultdict(list)  # (name, process id): [(seconds, bytes)]

    def sample(self):
        seconds = time.monotonic() - self.begin
        for container in [self.job.lead, *self.job.servers, *self.job.workers]:
            state = container.state()
            if not state["Running"]:
                continue
            resident = resident_bytes(state["Pid"])
            if resident:
                self.samples[container.alias, state["Pid"]].append((seconds, resident))

    def check(self):
        """No process that lived long has more in its last quarter than in the one before."""
        found = 0
        for (name, process), samples in self.samples.items():
            if samples[-1][0] - samples[0][0] < LIFE_MIN_S:
                continue
            found += 1
            quarter = len(samples) // 4
            before = statistics.median(bytes for _, bytes in samples[2 * quarter : 3 * quarter])
            last = statistics.median(bytes for _, bytes in samples[3 * quarter :])
            print(f"  {name} ({process}): {before / 1e6:.1f} MB, then {last / 1e6:.1f} MB")
            if last > before + max(GROWTH_MAX * before, GROWTH_MAX_BYTES):
                raise Failed(f"{name} grows: from {before / 1e6:.1f} MB to {last / 1e6:.1f} MB")
        if not found:
            raise Failed(f"no process lived for {LIFE_MIN_S:.0f} s: nothing is known of growth")

    def write(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        rows = ["process,id,seconds,resident_bytes"]
        for (name, process), samples in self.samples.items():
            rows += [f"{name},{process},{seconds:.1f},{resident}" for seconds, resident in samples]
        (directory / "memory.csv").write_text("\n".join(rows) + "\n")
        (directory / "memory.svg").write_text(plot.lines(self.samples))


class Events:
    """What happens to the job, by the dice."""

    def __init__(self, job, dice):
        self.job, self.dice = job, dice
        self.counted = collections.Counter()

    def next(self):
        kinds = [self.join, self.leave, self.kill_worker, self.restart_server]
        kind = self.dice.choice(kinds)
        if kind():
            self.counted[kind.__name__] += 1

    def join(self):
        if len(self.job.workers) >= WORKERS[1]:
            return False
        self.job.workers.append(self.job.start_worker())
        return True

    def leave(self):
        return self.remove("TERM")

    def kill_worker(self):
        return self.remove("KILL")

    def remove(self, signal):
        # The first is never touched.
        if len(self.job.workers) <= WORKERS[0]:
            return False
        worker = self.job.workers.pop(self.dice.randrange(1, len(self.job.workers)))
        docker("kill", "--signal", signal, worker.id)
        worker.wait()
        docker("rm", worker.id)
        return True

    def restart_server(self):
        # The last is never touched.
        server = self.dice.choice([self.job.lead, *self.job.servers[:-1]])
        server.kill()
        server.start()
        return True


def soak(engine, images, minutes, seed, directory):
    job = Job(engine, images, "soak", worker_options=("--delay-ms", "40"))
    memory, events = Memory(job), Events(job, random.Random(seed))
    with Watch(job) as watch:
        watch.steps(20)
        end = time.monotonic() + 60 * minutes
        next_event = time.monotonic()
        while time.monotonic() < end:
            if time.monotonic() - watch.since > HANG_S:
                raise Failed(f"no step since {HANG_S:.0f} s, after {watch.highest}, {dict(events.counted)}")
            if time.monotonic() >= next_event:
                events.next()
                next_event = time.monotonic() + events.dice.uniform(*PAUSE_S)
            memory.sample()
            memory.write(directory)
            time.sleep(SAMPLE_S)
        watch.steps(20)
        job.wait_for_workers()
        job.stop()
        steps, digest = job.end()
        longest_s = watch.longest_s
    print(f"  {dict(events.counted)}, generation {watch.generation}, longest stall {longest_s:.1f} s")
    check(engine, images, steps, digest)
    memory.check()


def main(tag, minutes, seed, directory):
    print(f"soak for {minutes} minutes, seed {seed}", flush=True)
    try:
        taken = Images(tag)
        with Engine() as engine:
            soak(engine, taken, float(minutes), int(seed), pathlib.Path(directory))
    except Failed as error:
        sys.exit(f"tests/containers: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
