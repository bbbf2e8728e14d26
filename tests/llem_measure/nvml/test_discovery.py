"""What CUDA_VISIBLE_DEVICES leaves of the GPUs."""

from typing import Any

import pytest

from llem_core.errors import ConfigError
from llem_measure.nvml.discovery import Gpu, visible, whole_number
from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import ask

UUIDS = {0: "GPU-aaaa-1", 1: "GPU-aabb-2", 2: "GPU-cccc-3", 4: "GPU-dddd-5"}
GPUS = {index: Gpu(index, uuid) for index, uuid in UUIDS.items()}
SLICES = {"MIG-1234": 2, "MIG-5678": 2}


VISIBLE: list[tuple[str | None, list[int]]] = [
    (None, [0, 1, 2, 4]),
    ("", []),
    ("0", [0]),
    ("2,0", [2, 0]),
    (" 2 , 0 ", [2, 0]),
    ("0,0,2", [0, 2]),
    ("0,3,2", [0]),
    ("0,-1,2", [0]),
    ("-1", []),
    ("NoDevFiles", []),
    ("1,", [1]),
    ("GPU-aabb-2", [1]),
    ("GPU-cc,GPU-aab", [2, 1]),
    ("GPU-aa,0", []),
    ("GPU-eeee", []),
    ("gpu-cccc", []),
    ("MIG-1234,MIG-5678", [2]),
    ("MIG-9999", []),
    ("MIG-GPU-dddd-5/1/0", [4]),
]


def test_forms_of_cuda_visible_devices() -> None:
    """Numbers, UUIDs, unique UUID prefixes and MIG slices are read. The first invalid entry ends the list."""
    found = {value: visible(value, GPUS, SLICES.get) for value, _ in VISIBLE}
    assert {value: [gpu.index for gpu in found[value]] for value in found} == dict(VISIBLE)
    assert all(gpu.uuid == UUIDS[gpu.index] for gpus in found.values() for gpu in gpus)


def test_a_slice_is_known_as_one() -> None:
    """A GPU that is visible through a MIG slice is marked as such."""
    assert visible("MIG-1234,0", GPUS, SLICES.get) == (Gpu(2, "GPU-cccc-3", mig=True), Gpu(0, "GPU-aaaa-1"))


def test_only_a_whole_number_names_a_gpu() -> None:
    """A value that is not an integer is a ConfigError. True would otherwise select GPU 1."""
    indices: list[Any] = [0.0, True, False, "0", None, [0]]
    for index in indices:
        with pytest.raises(ConfigError, match="is not the index of a GPU"):
            whole_number(index)


def test_an_invalid_index_is_a_config_error_everywhere(steady: FakeDriver) -> None:
    """Every backend rejects an invalid index. NumPy integers are valid."""
    program = """
import numpy as np
from llem_measure.power_thermal import PowerThermalSampler
refused = [failure(kind(gpu_indices=[1, True]).check) for kind in
           (eb.ZeusBackend, eb.NVMLBackend, eb.CodeCarbonBackend)]
refused += [failure(eb.NVMLBackend(0.0).start_tracking), failure(PowerThermalSampler(True).start)]
tell([refused, window(eb.NVMLBackend(gpu_indices=[np.int64(1), 1]), 0.3)["per_gpu_j"]])
"""
    refused, per_gpu_j = ask(program, steady.env)
    assert all(
        text.endswith("is not the index of a GPU; indices are whole numbers from 0") for text in refused
    )
    assert [*per_gpu_j] == ["1"]
