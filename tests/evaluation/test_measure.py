"""Costs against counts by hand; times and memory only in what must hold on any machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from stages.evaluation.measure import count_macs, measure_module, peak_memory, time_runs

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A convolution of 2 -> 5 channels, a depthwise one, a linear layer; the last weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.full = torch.nn.Conv2d(2, 5, 3, padding=1)
        self.depthwise = torch.nn.Conv2d(5, 5, 3, stride=2, padding=1, groups=5, bias=False)
        self.head = torch.nn.Linear(5 * 4 * 4, 7)
        self.same_head = self.head

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.depthwise(self.full(batch)))
        result: torch.Tensor = self.head(hidden.flatten(1))
        return result


def test_parameters_and_macs_are_those_counted_by_hand() -> None:
    cost = measure_module(Small().eval(), torch.zeros(32, 2, 8, 8), 2, "small", 123)
    assert cost.parameters == (2 * 5 * 9 + 5) + 5 * 9 + (80 * 7 + 7)
    assert cost.macs == 8 * 8 * 5 * 2 * 9 + 4 * 4 * 5 * 9 + 80 * 7
    assert cost.size_bytes == 123
    assert 0 < cost.latency_ms <= cost.latency_p95_ms
    assert cost.throughput > 0


def test_macs_are_of_one_sample() -> None:
    module = Small().eval()
    assert count_macs(module, torch.zeros(1, 2, 8, 8)) * 4 == count_macs(module, torch.zeros(4, 2, 8, 8))


def test_times_are_of_each_run_after_warm_up() -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(len(runs))
        time.sleep(0.02 if len(runs) <= 5 else 0.001)

    seconds = time_runs(run, 4, CPU)
    assert len(runs) == 9
    assert len(seconds) == 4
    assert all(0.001 <= item < 0.02 for item in seconds)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_what_a_pass_takes() -> None:
    class Holds(torch.nn.Module):
        """Takes 64 MiB for the time of the pass."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.ones(16 * 2**20)[: len(batch)] + batch

    class Frugal(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch + 1

    much, little = peak_memory(Holds(), torch.zeros(32)), peak_memory(Frugal(), torch.zeros(32))
    assert much is not None
    assert little is not None
    assert 60 * 2**20 < much < 80 * 2**20
    assert little < 4 * 2**20
