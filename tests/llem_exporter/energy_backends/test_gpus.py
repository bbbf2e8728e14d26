"""What CUDA_VISIBLE_DEVICES leaves of the GPUs."""

import pytest

from llem_exporter.energy_backends.gpus import Gpu, visible

UUIDS = {0: "GPU-aaaa-1", 1: "GPU-aabb-2", 2: "GPU-cccc-3", 4: "GPU-dddd-5"}
SLICES = {"MIG-1234": 2, "MIG-5678": 2}


@pytest.mark.parametrize(
    ("value", "indices"),
    [
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
    ],
)
def test_forms_of_cuda_visible_devices(value: str | None, indices: list[int]) -> None:
    """Numbers, UUIDs and their unique prefixes, slices; the first that names no GPU ends the list."""
    found = visible(value, UUIDS, SLICES.get)
    assert [gpu.index for gpu in found] == indices
    assert [gpu.uuid for gpu in found] == [UUIDS[index] for index in indices]


def test_a_slice_is_known_as_one() -> None:
    """The measurement is then of more than what was named."""
    assert visible("MIG-1234,0", UUIDS, SLICES.get) == (Gpu(2, "GPU-cccc-3", mig=True), Gpu(0, "GPU-aaaa-1"))
