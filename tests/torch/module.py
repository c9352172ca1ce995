"""halflife_torch alone: files of its own, read back, and what it refuses."""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "torch"))
import halflife_torch as h  # noqa: E402
from problem import OPTIMIZERS, model, optimizer, train  # noqa: E402


def refused(part, call, *arguments):
    try:
        call(*arguments)
    except ValueError as error:
        assert part in str(error), error
        return
    raise AssertionError(f"{call.__name__} took what it should refuse: {part}")


def trained(name, steps=3):
    one = model()
    of_one = optimizer(OPTIMIZERS[name][0], one)
    train(one, of_one, 0, steps)
    return one, of_one


def state_goes_to_groups_in_another_order(path):
    one, of_one = trained("adamw")
    h.save_state(path, one, of_one)
    other = model()
    other.load_state_dict(one.state_dict())
    of_other = torch.optim.AdamW(
        [{"params": [p for n, p in other.named_parameters() if n.endswith(kind)]} for kind in ("bias", "weight")]
    )
    h.load_state(path, other, of_other)
    assert [group["weight_decay"] for group in of_other.param_groups] == [0.0, 0.1]
    assert train(one, of_one, 3, 6)[-1]["0.weight"].equal(train(other, of_other, 3, 6)[-1]["0.weight"])


def untouched_parameters_have_no_state(path):
    for name in OPTIMIZERS:
        one, of_one = trained(name, 0)
        h.save_state(path, one, of_one)
        other, of_other = trained(name, 0)
        h.load_state(path, other, of_other)
        assert all(not state for state in of_other.state.values())


def tied_frozen_and_buffers_keep_their_kind(path):
    one = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    one[2].weight = one[0].weight
    one[2].bias.requires_grad_(False)
    h.save_weights(path, one)
    tensors, metadata = h.read_safetensors(path)
    assert "2.weight" not in tensors and "1.num_batches_tracked" not in tensors
    for part in ['{"tied_to": "0.weight"}', '"frozen"', '"buffer"']:
        assert part in metadata["halflife_model"], metadata
    other = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    other[2].weight = other[0].weight
    h.load_weights(path, other)
    assert other[2].weight.equal(one[0].weight) and other[2].bias.equal(one[2].bias)


def what_does_not_fit_is_refused(path):
    one, of_one = trained("adamw")
    h.save_weights(path, one)
    refused("expected a tensor of the model", h.load_weights, path, torch.nn.Sequential(torch.nn.Linear(3, 5)))
    refused("expected its weights, found none", h.load_weights, path, torch.nn.Sequential(*one, torch.nn.Linear(2, 1)))
    wide = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    refused("0.weight: expected", h.load_weights, path, wide)
    h.save_state(path, one, of_one)
    refused("expected the state of SGD, found that of AdamW", h.load_state, path, *trained("sgd_momentum", 0))
    refused("expected the optimizer's parameters", h.load_state, path, wide, torch.optim.AdamW([wide[0].weight]))
    refused("expected torch.optim.AdamW, Adam or SGD", h.save_state, path, one, torch.optim.RAdam(one.parameters()))
    refused("expected float32", h.save_weights, path, model().double())
    Path(path).write_bytes(b"nonsense")
    refused("expected a safetensors file", h.load_weights, path, one)


for check in [
    state_goes_to_groups_in_another_order,
    untouched_parameters_have_no_state,
    tied_frozen_and_buffers_keep_their_kind,
    what_does_not_fit_is_refused,
]:
    with tempfile.TemporaryDirectory() as directory:
        check(f"{directory}/file.safetensors")
print("halflife_torch: reads what it wrote, refuses what does not fit")
