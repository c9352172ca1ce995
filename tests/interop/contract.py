"""Speaks to a halflife server from the .proto files alone: initialize, push a gradient, pull; then a step
through the step stream, whose messages the server frames by hand.

    python contract.py URL        # a lead with tests/interop/job.toml: SGD, lr 0.5, 2 slots

Needs grpcio and grpcio-tools; compiles the .proto files itself, uses no code of ours.
"""
import queue, struct, sys, tempfile, time
import grpc
from grpc_tools import protoc
from pathlib import Path

proto = Path(__file__).parents[2] / "proto" / "proto"
out = tempfile.mkdtemp()
files = [str(file) for file in proto.rglob("*.proto")]
assert protoc.main(["", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) == 0
sys.path.insert(0, out)
from halflife.v1 import control_pb2, control_pb2_grpc, data_pb2, data_pb2_grpc, model_pb2 as m

LARGE = 300_000  # elements, in blocks of 262,144: too large to be copied behind a message's head
BLOCK = 262_144
LIMIT = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]
channel = grpc.insecure_channel(sys.argv[1].removeprefix("http://"), options=LIMIT)
control, data = control_pb2_grpc.ControlStub(channel), data_pb2_grpc.DataStub(channel)
SECONDS = 60  # longest that a busy machine may take


def retry(call, not_yet):
    """Again while the answer is this one."""
    begun = time.monotonic()
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != not_yet or time.monotonic() > begun + SECONDS:
                raise
            time.sleep(0.01)


job = control.Describe(control_pb2.DescribeRequest())
hello = m.Hello(protocol_version=1, job_id=job.job_id, generation=job.generation, incarnation=1)
trainable = dict(dtype=m.DTYPE_F32, role=m.TENSOR_ROLE_TRAINABLE)
manifest = m.Manifest(tensors=[m.Tensor(name="w", shape=[3], **trainable), m.Tensor(name="large", shape=[LARGE], **trainable)])
join = control_pb2.JoinRequest(hello=hello, manifest=manifest, join_as=control_pb2.JOIN_AS_CLIENT)
retry(lambda: control.Join(join), grpc.StatusCode.UNAVAILABLE)

block = m.BlockId(dense=m.DenseBlock(tensor=0, index=0))
pack = lambda *values: struct.pack(f"<{len(values)}f", *values)
data.Initialize(data_pb2.InitializeRequest(hello=hello, block=block, dtype=m.DTYPE_F32, data=pack(1, 2, 3)))
large = [(m.BlockId(dense=m.DenseBlock(tensor=1, index=i)), size) for i, size in enumerate([BLOCK, LARGE - BLOCK])]
for id, size in large:
    data.Initialize(data_pb2.InitializeRequest(hello=hello, block=id, dtype=m.DTYPE_F32, data=pack(*[1.0] * size)))
gradient = dict(block=block, generation=job.generation, step=1, kind=m.CONTRIBUTION_KIND_DENSE, weight=1, dtype=m.DTYPE_F32)
for slot, values in enumerate([(2, 4, 6), (4, 8, -6)]):
    part = m.Contribution(**gradient, slots=m.SlotRange(begin=slot, end=slot + 1), data=pack(*values))
    assert data.Push(data_pb2.PushRequest(hello=hello, contribution=part)).outcome == m.OUTCOME_ADDED
    for id, _ in large:
        absent = dict(kind=m.CONTRIBUTION_KIND_ABSENT, weight=1, generation=job.generation, step=1)
        part = m.Contribution(block=id, slots=m.SlotRange(begin=slot, end=slot + 1), **absent)
        assert data.Push(data_pb2.PushRequest(hello=hello, contribution=part)).outcome == m.OUTCOME_ADDED
# The large blocks may still be at it: their updates are computed behind the acknowledgement.
pull = data_pb2.PullRequest(hello=hello, blocks=[block], step=1)
pulled = retry(lambda: data.Pull(pull), grpc.StatusCode.OUT_OF_RANGE)
weights = struct.unpack("<3f", pulled.blocks[0].data)
assert weights == (-0.5, -1.0, 3.0), weights  # w - 0.5 * mean of the two slots

try:  # a wrong size is INVALID_ARGUMENT, with a typed refusal in the trailing metadata
    data.Push(data_pb2.PushRequest(hello=hello, contribution=m.Contribution(**{**gradient, "step": 2}, slots=m.SlotRange(begin=0, end=1), data=b"123")))
    raise SystemExit("a contribution of 3 bytes was taken")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    refusal = m.Refusal.FromString(dict(error.trailing_metadata())["halflife-refusal-bin"])
    assert refusal.cause == m.REFUSAL_CAUSE_WRONG_SIZE and "12 bytes" in refusal.expected, refusal
# The step stream: a hello is answered by a welcome and the newest weights, contributions by the next ones.
requests = queue.SimpleQueue()
responses = data.Step(iter(requests.get, None))
requests.put(data_pb2.StepRequest(hello=hello))
assert next(responses).welcome.step == 1
blocks = {(0, 0): 3, **{(1, i): size for i, (_, size) in enumerate(large)}}


def receive(step):
    """The weights of every block at a step."""
    received = {}
    while len(received) < len(blocks):
        weights = next(responses).weights
        assert weights.step == step and weights.dtype == m.DTYPE_F32, weights.step
        where = (weights.block.dense.tensor, weights.block.dense.index)
        received[where] = struct.unpack(f"<{blocks[where]}f", weights.data)
    return received


assert receive(1) == {(0, 0): (-0.5, -1.0, 3.0), (1, 0): (1.0,) * BLOCK, (1, 1): (1.0,) * (LARGE - BLOCK)}
for slot in range(2):
    for (tensor, index), size in blocks.items():
        part = dict(gradient, step=2, block=m.BlockId(dense=m.DenseBlock(tensor=tensor, index=index)))
        values = pack(*[float(i % 5 + slot) for i in range(size)])
        part = m.Contribution(**part, slots=m.SlotRange(begin=slot, end=slot + 1), data=values)
        requests.put(data_pb2.StepRequest(contribution=part))
after = receive(2)
assert after[0, 0] == (-0.75, -1.75, 1.75), after[0, 0]  # w - 0.5 * (i % 5 + 0.5)
for (where, size) in list(blocks.items())[1:]:
    assert after[where] == tuple(0.75 - 0.5 * (i % 5) for i in range(size)), where
wrong = m.Contribution(**{**gradient, "step": 3}, slots=m.SlotRange(begin=0, end=1), data=b"123")
requests.put(data_pb2.StepRequest(contribution=wrong))
assert next(responses).refusal.cause == m.REFUSAL_CAUSE_WRONG_SIZE  # and the stream stays open
repeated = m.Contribution(**{**gradient, "step": 2}, slots=m.SlotRange(begin=0, end=1), data=pack(0, 1, 2))
requests.put(data_pb2.StepRequest(contribution=repeated))
assert next(responses).acknowledgement.outcome == m.OUTCOME_ALREADY_APPLIED
responses.cancel()  # the server would go on sending new weights
requests.put(None)
print("interop: initialized, pushed, pulled", weights, "and streamed a step")
