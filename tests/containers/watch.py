"""How a job gets on while it is disturbed: the longest time without a step that nobody had seen before."""

import contextlib
import threading
import time

from engine import Failed

POLL_S = 0.05
# A job is well again once it has completed so many more steps.
STEPS_AFTER = 20
# A job that makes no step for so long will make none.
HANG_S = 60.0


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
                # With what the question itself took, where nobody answered it.
                self.longest_s = max(self.longest_s, now - self.since)
                # Steps that are computed again after a restore are no progress.
                if status and status["step"] > self.highest:
                    self.highest, self.since = status["step"], now
                    self.generation = status["generation"]
                    self.first_step_s = self.first_step_s or now - self.begin

    def steps(self, more):
        """Waits for so many new steps, however long they take: only a job that does not move at all is given up."""
        wanted = self.highest + more
        while self.highest < wanted:
            if time.monotonic() - self.since > HANG_S:
                raise Failed(f"expected step {wanted}, found {self.highest} and none since {HANG_S:.0f} s")
            time.sleep(POLL_S)

    @contextlib.contextmanager
    def disturbance(self, what, at_most_s, outage=False):
        """What is done inside may hold the job up for so long, until it is well again. An outage stops it while it lasts:
        the time is counted from its end, since how fast an engine starts a container is not ours."""
        self.steps(STEPS_AFTER)
        with self.lock:
            self.longest_s = 0.0
        begin = time.monotonic()
        yield
        if outage:
            at_most_s += time.monotonic() - begin
        self.steps(STEPS_AFTER)
        with self.lock:
            longest_s = self.longest_s
        print(f"  {what}: longest stall {longest_s:.1f} s of at most {at_most_s:.1f} s; step {self.highest}", flush=True)
        if longest_s > at_most_s:
            raise Failed(f"{what}: the job stood still for {longest_s:.1f} s, expected at most {at_most_s:.1f} s")
