"""A halflife job of two servers, driven with given gradients over the contract from Python.

Compiles the .proto files itself; uses no code of ours.
"""

import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import torch
from grpc_tools import protoc

ROOT = Path(__file__).parents[2]
SERVERS, BLOCK, SECONDS = 2, 4, 30

proto, out = ROOT / "proto" / "proto", tempfile.mkdtemp()
files = [str(file) for file in proto.rglob("*.proto")]
assert protoc.main(["", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) == 0
sys.path.insert(0, out)
from halflife.v1 import control_pb2, control_pb2_grpc, data_pb2, data_pb2_grpc, model_pb2 as m  # noqa: E402


def write_config(path, optimizer, steps):
    """A job file whose store is beside it."""
    job = f'[job]\nname = "torch"\nsteps = {steps}\nslots = 1\nservers = {SERVERS}\nblock_elements = {BLOCK}\n'
    kept = '[checkpoint]\nlocation = "kept"\nevery = 1000\n'
    path.write_text(f"{job}{kept}[optimizer]\n{optimizer}")


def command(binaries, *arguments, fails=False):
    """Runs a checkpoint command. Its output, or what it complained of."""
    line = [f"{binaries}/halflife-server", "checkpoint", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode == 1) == fails, (line, done.returncode, done.stdout, done.stderr)
    return done.stderr if fails else done.stdout


class Job:
    """The servers, until the block ends."""

    def __init__(self, binaries, config):
        self.binaries, self.config, self.servers = binaries, config, []

    def __enter__(self):
        self.url = self.start("--config", self.config)
        for _ in range(1, SERVERS):
            self.start("--lead", self.url)
        self.control = control_pb2_grpc.ControlStub(grpc.insecure_channel(self.url.removeprefix("http://")))
        return self

    def start(self, *arguments):
        log = tempfile.NamedTemporaryFile("r", suffix=".log")
        line = [f"{self.binaries}/halflife-server", *map(str, arguments), "--listen", "127.0.0.1:0"]
        with open(log.name, "w") as stderr:
            server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=stderr)
        self.servers.append((server, log))
        begun = time.monotonic()
        while time.monotonic() < begun + SECONDS and server.poll() is None:
            found = re.search(r'listening url="?(http[^" ]*)', Path(log.name).read_text())
            if found:
                return found[1]
            time.sleep(0.02)
        raise SystemExit(f"{line} did not listen:\n{Path(log.name).read_text()}")

    def __exit__(self, failed, *_):
        for server, log in self.servers:
            server.terminate()
            server.wait(SECONDS)
            if failed:
                print(Path(log.name).read_text(), file=sys.stderr)

    def join(self, named):
        """Joins with these parameters, once the servers have read the checkpoint."""
        job = self.control.Describe(control_pb2.DescribeRequest())
        self.hello = m.Hello(protocol_version=1, job_id=job.job_id, generation=job.generation, incarnation=1)
        self.generation, self.named = job.generation, named
        trainable = dict(dtype=m.DTYPE_F32, role=m.TENSOR_ROLE_TRAINABLE)
        tensors = [m.Tensor(name=name, shape=list(p.shape), **trainable) for name, p in named.items()]
        request = dict(hello=self.hello, manifest=m.Manifest(tensors=tensors), join_as=control_pb2.JOIN_AS_CLIENT)
        joined = retry(lambda: self.control.Join(control_pb2.JoinRequest(**request)))
        addresses = [url.removeprefix("http://") for url in joined.placement.servers]
        stubs = [data_pb2_grpc.DataStub(grpc.insecure_channel(address)) for address in addresses]
        self.blocks = []  # tensor's name, block, begin, end, stub of its server
        for tensor, (name, parameter) in enumerate(named.items()):
            for index, owner in enumerate(joined.placement.tensors[tensor].blocks):
                block = m.BlockId(dense=m.DenseBlock(tensor=tensor, index=index))
                end = min(parameter.numel(), (index + 1) * BLOCK)
                self.blocks.append((name, block, index * BLOCK, end, stubs[owner.servers[0]]))
        used = {id(stub) for *_, stub in self.blocks}
        assert len(used) == SERVERS, "expected blocks on every server"

    def step(self, step, gradients):
        """Makes one step. The weights after it."""
        for name, block, begin, end, stub in self.blocks:
            values = gradients[name].reshape(-1)[begin:end].tolist()
            part = m.Contribution(
                block=block, generation=self.generation, step=step, slots=m.SlotRange(begin=0, end=1), weight=1,
                kind=m.CONTRIBUTION_KIND_DENSE, dtype=m.DTYPE_F32, data=struct.pack(f"<{len(values)}f", *values),
            )
            retry(lambda: stub.Push(data_pb2.PushRequest(hello=self.hello, contribution=part)))
        return self.pull(step)

    def pull(self, step):
        """The weights after a step."""
        weights = {name: torch.empty(parameter.numel()) for name, parameter in self.named.items()}
        for name, block, begin, end, stub in self.blocks:
            request = data_pb2.PullRequest(hello=self.hello, blocks=[block], step=step)
            data = retry(lambda: stub.Pull(request)).blocks[0].data
            weights[name][begin:end] = torch.tensor(struct.unpack(f"<{end - begin}f", data))
        return {name: values.reshape(self.named[name].shape) for name, values in weights.items()}

    def checkpoint_now(self, step):
        """`checkpoint now` of a job that stands at this step: nobody else computes."""
        begun = time.monotonic()
        # The lead hears of a step after its servers have made it.
        while self.control.Status(control_pb2.StatusRequest()).step < step:
            assert time.monotonic() < begun + SECONDS, f"the lead never heard of step {step}"
            time.sleep(0.02)
        line = [f"{self.binaries}/halflife-server", "checkpoint", "now", "--lead", self.url, "--timeout", str(SECONDS)]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=2 * SECONDS)
        assert done.returncode == 0 and f"{step:012}-g" in done.stdout, done.stdout


def retry(call):
    """Again while a server says that it is not ready."""
    begun = time.monotonic()
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > begun + SECONDS:
                raise
            time.sleep(0.02)
