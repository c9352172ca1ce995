"""How a job gets on while it is disturbed: the longest time without a step that nobody had seen before."""

import contextlib
import threading
import time

from engine import Failed, until

POLL_S = 0.05
# A job is well again once it has completed so many more steps.
STEPS_AFTER = 20


class Watch:
    """Asks the lead all the time, in a thread of its own. A context."""

    def __init__(self, job):
        self.job = job
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.highest, self.since = 0, time.monotonic()
        self.longest_s = 0.0
        self.generation = 0
        self.first_step_s = None
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self):
        self.begin = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()

    def look(self):
        while not self.ending.wait(POLL_S):
            status = self.job.status()
            now = time.monotonic()
            with self.lock:
                # Steps that are computed again after a restore are no progress.
                if status and status["step"] > self.highest:
                    self.highest, self.since = status["step"], now
                    self.generation = status["generation"]
                    self.first_step_s = self.first_step_s or now - self.begin
                self.longest_s = max(self.longest_s, now - self.since)

    def steps(self, more):
        """Waits for so many new steps."""
        wanted = self.highest + more
        until(f"step {wanted}, the newest is {self.highest}", lambda: self.highest >= wanted)

    @contextlib.contextmanager
    def disturbance(self, what, at_most_s):
        """What is done inside may hold the job up for so long, until it is well again."""
        self.steps(STEPS_AFTER)
        with self.lock:
            self.longest_s = 0.0
        yield
        self.steps(STEPS_AFTER)
        with self.lock:
            longest_s = self.longest_s
        print(f"  {what}: longest stall {longest_s:.1f} s of at most {at_most_s:.1f} s; step {self.highest}", flush=True)
        if longest_s > at_most_s:
            raise Failed(f"{what}: the job stood still for {longest_s:.1f} s, expected at most {at_most_s:.1f} s")
