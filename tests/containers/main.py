"""Tests of the images and of jobs in containers. Usage: main.py TAG. `run` builds the images first."""

import sys
import time

import election
import images
import jobs
from engine import Engine, Failed
from job import Images

STAGES = (
    ("the images", images.all_promises),
    ("3 servers and 4 workers that nobody disturbs", jobs.undisturbed),
    ("3 servers and 4 workers to which everything happens", jobs.disturbed),
    ("an elected lead that dies for good", election.another_takes_over),
)


def main(tag):
    begin = time.monotonic()
    try:
        taken = Images(tag)
        with Engine() as engine:
            for name, stage in STAGES:
                print(f"{name} (after {time.monotonic() - begin:.0f} s)", flush=True)
                stage(engine, taken)
    except Failed as error:
        sys.exit(f"tests/containers: {error}")
    print(f"all of it in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
