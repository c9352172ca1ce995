"""What the round trip trains: a small model, gradients that depend on nothing but the step, and each optimizer.

Gradients are drawn, not computed: the two sides then see the same ones, and every difference is the optimizer's.
"""

import random

import torch

STEPS, FIRST, MIDDLE = 90, 30, 60  # torch until FIRST, halflife until MIDDLE, then torch
# What the golden vectors of torch allow f32 (tests/golden/README.md): within RTOL of the largest value so far.
RTOL, ATOL = 5e-6, 1e-36

SPARED = '[[optimizer.groups]]\nname = "spared"\npatterns = ["bias$"]\ndecay_mult = 0.0\nlr_mult = 2.0\n'
OPTIMIZERS = {
    "adamw": (
        lambda groups: torch.optim.AdamW(groups(lr=0.01, weight_decay=0.1), betas=(0.9, 0.99)),
        'preset = "pytorch-adamw"\nlr = 0.01\nbetas = [0.9, 0.99]\nweight_decay = { value = 0.1 }\n' + SPARED,
    ),
    "adamw_amsgrad": (
        lambda groups: torch.optim.AdamW(groups(lr=0.01, weight_decay=0.1), amsgrad=True),
        'preset = "pytorch-adamw"\nlr = 0.01\namsgrad = true\nweight_decay = { value = 0.1 }\n' + SPARED,
    ),
    "adam_l2": (
        lambda groups: torch.optim.Adam(groups(lr=0.01, weight_decay=0.05)),
        'preset = "pytorch-adam"\nlr = 0.01\nweight_decay = { value = 0.05 }\n' + SPARED,
    ),
    "sgd_momentum": (
        lambda groups: torch.optim.SGD(groups(lr=0.05, weight_decay=0.02), lr=1.0, momentum=0.9, dampening=0.1),
        'preset = "pytorch-sgd"\nlr = 0.05\nmomentum = 0.9\ndampening = 0.1\nweight_decay = { value = 0.02 }\n' + SPARED,
    ),
}


def model():
    """Blocks of 4 elements cut each of its tensors but the last."""
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))


def optimizer(make, model):
    """The optimizer with two groups: biases learn twice as fast and do not decay."""

    def groups(lr, weight_decay):
        named = list(model.named_parameters())
        weights = [parameter for name, parameter in named if not name.endswith("bias")]
        biases = [parameter for name, parameter in named if name.endswith("bias")]
        weights = {"params": weights, "lr": lr, "weight_decay": weight_decay}
        return [weights, {"params": biases, "lr": 2 * lr, "weight_decay": 0.0}]

    return make(groups)


def gradients(step):
    """Of each parameter, by name; some values are zero, and sizes vary."""
    draw = random.Random(step)
    scale = 10 ** draw.uniform(-3, 0)
    value = lambda: draw.gauss(0, scale) if draw.random() > 0.1 else 0.0
    named = model().named_parameters()
    return {name: torch.tensor([value() for _ in range(p.numel())]).reshape(p.shape) for name, p in named}


def train(model, optimizer, begin, end):
    """Steps begin + 1 to end. The weights after each."""
    trajectory = []
    for step in range(begin + 1, end + 1):
        of_step = gradients(step)
        for name, parameter in model.named_parameters():
            parameter.grad = of_step[name].clone()
        optimizer.step()
        trajectory.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return trajectory
