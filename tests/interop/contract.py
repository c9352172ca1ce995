"""Speaks to a halflife server from the .proto files alone: initialize, push a gradient, pull.

    python contract.py URL        # a lead with tests/interop/job.toml: SGD, lr 0.5, 2 slots

Needs grpcio and grpcio-tools; compiles the .proto files itself, uses no code of ours.
"""
import struct, sys, tempfile, time
import grpc
from grpc_tools import protoc
from pathlib import Path

proto = Path(__file__).parents[2] / "proto" / "proto"
out = tempfile.mkdtemp()
files = [str(file) for file in proto.rglob("*.proto")]
assert protoc.main(["", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) == 0
sys.path.insert(0, out)
from halflife.v1 import control_pb2, control_pb2_grpc, data_pb2, data_pb2_grpc, model_pb2 as m

channel = grpc.insecure_channel(sys.argv[1].removeprefix("http://"))
control, data = control_pb2_grpc.ControlStub(channel), data_pb2_grpc.DataStub(channel)
job = control.Describe(control_pb2.DescribeRequest())
hello = m.Hello(protocol_version=1, job_id=job.job_id, generation=job.generation, incarnation=1)
manifest = m.Manifest(tensors=[m.Tensor(name="w", shape=[3], dtype=m.DTYPE_F32, role=m.TENSOR_ROLE_TRAINABLE)])
join = control_pb2.JoinRequest(hello=hello, manifest=manifest, join_as=control_pb2.JOIN_AS_CLIENT)
for _ in range(100):
    try:
        control.Join(join)
        break
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        time.sleep(0.05)

block = m.BlockId(dense=m.DenseBlock(tensor=0, index=0))
pack = lambda *values: struct.pack(f"<{len(values)}f", *values)
data.Initialize(data_pb2.InitializeRequest(hello=hello, block=block, dtype=m.DTYPE_F32, data=pack(1, 2, 3)))
gradient = dict(block=block, generation=job.generation, step=1, kind=m.CONTRIBUTION_KIND_DENSE, weight=1, dtype=m.DTYPE_F32)
for slot, values in enumerate([(2, 4, 6), (4, 8, -6)]):
    part = m.Contribution(**gradient, slots=m.SlotRange(begin=slot, end=slot + 1), data=pack(*values))
    assert data.Push(data_pb2.PushRequest(hello=hello, contribution=part)).outcome == m.OUTCOME_ADDED
pulled = data.Pull(data_pb2.PullRequest(hello=hello, blocks=[block], step=1))
weights = struct.unpack("<3f", pulled.blocks[0].data)
assert weights == (-0.5, -1.0, 3.0), weights  # w - 0.5 * mean of the two slots

try:  # a wrong size is INVALID_ARGUMENT, with a typed refusal in the trailing metadata
    data.Push(data_pb2.PushRequest(hello=hello, contribution=m.Contribution(**{**gradient, "step": 2}, slots=m.SlotRange(begin=0, end=1), data=b"123")))
    raise SystemExit("a contribution of 3 bytes was taken")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    refusal = m.Refusal.FromString(dict(error.trailing_metadata())["halflife-refusal-bin"])
    assert refusal.cause == m.REFUSAL_CAUSE_WRONG_SIZE and "12 bytes" in refusal.expected, refusal
print("interop: initialized, pushed, pulled", weights)
