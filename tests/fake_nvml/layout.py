"""state.h's structs for ctypes, field by field: the library refuses a file of another size."""

import ctypes

MAX_GPUS, MAX_MIG_SLICES, PIECES, COUNTERS, CLOCKS, CALL_CLASSES = 64, 7, 256, 64, 4, 4
MAGIC, VERSION = 0x4C4D564E454B4146, 3

_Number = ctypes.c_double | ctypes.c_uint64 | ctypes.c_int64
_f64, _u64, _i64 = ctypes.c_double, ctypes.c_uint64, ctypes.c_int64


def _each(kind: type[_Number], names: str) -> list[tuple[str, type[_Number]]]:
    return [(name, kind) for name in names.split()]


class Piece(ctypes.Structure):
    """A load from start_s on, until the next piece's."""

    _fields_ = _each(
        _f64,
        "start_s joules_before low_watts high_watts duty period_s phase sine_watts sine_period_s sine_phase",
    )


class Counter(ctypes.Structure):
    """What the energy counter adds to, from start_s on."""

    _fields_ = _each(_f64, "start_s joules_before base_mj module_base_mj gain module_watts")


class Gpu(ctypes.Structure):
    """One GPU's load, faults, readings and call counts."""

    _fields_ = [
        ("piece_count", _u64),
        ("pieces", Piece * PIECES),
        ("counter_count", _u64),
        ("counters", Counter * COUNTERS),
        *_each(_f64, "update_period_s update_offset_s averaging_window_s gain energy_update_period_s"),
        *_each(_u64, "lost hung power_supported instant_supported energy_supported denied"),
        *_each(_f64, "slow_call_s power_override_watts"),
        *_each(_u64, "architecture compute_major compute_minor grace_hopper mig_slices"),
        ("name", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 80),
        ("serial", ctypes.c_char * 32),
        *_each(_u64, "pci_bus pci_device_id minor_number"),
        *_each(_u64, "memory_total_bytes memory_used_bytes memory_reserved_bytes"),
        *_each(_u64, "utilization_percent memory_utilization_percent temperature_celsius"),
        ("fan_percent", _i64),
        *_each(_u64, "power_limit_mw default_limit_mw min_limit_mw max_limit_mw"),
        *_each(_u64, "throttle_reasons persistence_mode performance_state compute_mode"),
        ("clocks_mhz", _u64 * CLOCKS),
        ("max_clocks_mhz", _u64 * CLOCKS),
        ("calls", _u64 * CALL_CLASSES),
    ]


class State(ctypes.Structure):
    """The whole file."""

    _fields_ = [
        *_each(_u64, "magic version size"),
        ("origin_ns", _i64),
        *_each(_u64, "loaded generation gpu_count cuda_version init_hung replaced forgets_fork"),
        ("driver_version", ctypes.c_char * 80),
        ("gpus", Gpu * MAX_GPUS),
    ]
