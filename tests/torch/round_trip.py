"""PyTorch trains, halflife goes on with its weights and moments, PyTorch goes on with halflife's: the whole
trajectory is that of PyTorch alone.

    python round_trip.py DIRECTORY_OF_BINARIES
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "torch"))
import halflife_torch as h  # noqa: E402
from job import Job, command, write_config  # noqa: E402
from problem import ATOL, FIRST, MIDDLE, OPTIMIZERS, RTOL, STEPS, gradients, model, optimizer, train  # noqa: E402


def fresh(make):
    """A model whose weights say that nobody loaded them, and its optimizer."""
    other = model()
    for parameter in other.parameters():
        parameter.data.fill_(float("nan"))
    return other, optimizer(make, other)


def in_halflife(binaries, directory, settings):
    """Imports what lies in the directory, makes the steps in between, exports. The weights after each."""
    config = directory / "job.toml"
    write_config(config, settings, STEPS)
    weights, state = directory / "first.safetensors", directory / "first-state.safetensors"
    said = command(
        binaries, "import", "--config", config, "--weights", weights, "--torch-state", state, "--step", FIRST
    )
    assert "note:" not in said, said  # lr and decay are as they were
    named = dict(model().named_parameters())
    with Job(binaries, config) as job:
        job.join(named)
        trajectory = [job.step(step, gradients(step)) for step in range(FIRST + 1, MIDDLE + 1)]
        job.checkpoint_now(MIDDLE)
    verified = command(binaries, "verify", "--config", config, "--all")
    assert "DAMAGED" not in verified, verified
    exported = ["--weights", directory / "then.safetensors", "--torch-state", directory / "then-state.safetensors"]
    command(binaries, "export", "--config", config, MIDDLE, *exported)
    return trajectory


def compare(name, alone, together):
    """Every weight after every step, as the golden vectors are compared. The largest part of what is allowed."""
    assert len(alone) == len(together) == STEPS
    scale = {tensor: torch.zeros_like(values) for tensor, values in alone[0].items()}
    worst = 0.0
    for step, (expected, found) in enumerate(zip(alone, together), 1):
        for tensor, values in expected.items():
            scale[tensor] = torch.maximum(scale[tensor], values.abs())
            part = ((found[tensor] - values).abs() / (RTOL * scale[tensor] + ATOL)).max().item()
            assert part <= 1, f"{name}: {tensor} after step {step}: expected {values}, found {found[tensor]}"
            worst = max(worst, part)
    return worst


def round_trip(binaries, name):
    make, settings = OPTIMIZERS[name]
    one = model()
    alone = train(one, optimizer(make, one), 0, STEPS)
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        first = model()
        of_first = optimizer(make, first)
        together = train(first, of_first, 0, FIRST)
        h.save_weights(directory / "first.safetensors", first)
        h.save_state(directory / "first-state.safetensors", first, of_first)
        together += in_halflife(binaries, directory, settings)
        last, of_last = fresh(make)
        h.load_weights(directory / "then.safetensors", last)
        h.load_state(directory / "then-state.safetensors", last, of_last)
        together += train(last, of_last, MIDDLE, STEPS)
    worst = compare(name, alone, together)
    print(f"{name}: {STEPS} steps as torch alone, at most {worst:.3f} of the tolerance")


def main():
    print(f"torch {torch.__version__}")
    for name in OPTIMIZERS:
        round_trip(sys.argv[1], name)


main()
