"""Worse links, made in a container's network namespace: as much of delay, loss and narrowness as this kernel has."""

import shutil

from engine import Failed, run

NETEM = ("netem", "delay", "15ms", "5ms", "loss", "2%")
# A link of 4 Mbit/s delays whatever queues before it.
NARROW = ("tbf", "rate", "4mbit", "burst", "16kb", "latency", "200ms")
# What arrives is thrown away: what leaves would be refused to the sender, which knows then.
LOSS = ("INPUT", "--in-interface", "eth0", "--match", "statistic", "--mode", "random")
LOSS += ("--probability", "0.02", "--jump", "DROP")


def inside(container, *command):
    return run(["nsenter", f"--net=/proc/{container.process()}/ns/net", *command])


def worsen(containers):
    """Does what can be done to the links of these containers. Gives what that is, as text; None: nothing."""
    if not (shutil.which("nsenter") and shutil.which("tc")):
        return None
    try:
        for container in containers:
            inside(container, "tc", "qdisc", "replace", "dev", "eth0", "root", *NETEM)
        return " ".join(NETEM)
    except Failed as error:
        print(f"  this kernel has no netem ({error}): loss by iptables, delay by a narrow link", flush=True)
    try:
        for container in containers:
            inside(container, "tc", "qdisc", "replace", "dev", "eth0", "root", *NARROW)
            inside(container, "iptables", "--append", *LOSS)
        return "2 % loss on a link of 4 Mbit/s"
    except Failed as error:
        print(f"  nor that: {error}", flush=True)
        return None


def mend(containers):
    """Takes all of it back."""
    for container in containers:
        for command in (("tc", "qdisc", "del", "dev", "eth0", "root"), ("iptables", "--delete", *LOSS)):
            try:
                inside(container, *command)
            except Failed:
                pass  # Only what was done can be taken back.
