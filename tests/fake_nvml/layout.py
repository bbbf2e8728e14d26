"""state.h's structs for ctypes, field by field: the library refuses a file of another size."""

import ctypes

MAX_GPUS, MAX_MODULES, MAX_MIG_SLICES, PIECES, COUNTERS, CLOCKS = 64, 64, 7, 256, 64, 4
CALL_CLASSES, DRIVER_CALLS = 5, 3
MAGIC, VERSION, NO_CLOCK = 0x4C4D564E454B4146, 4, 2**64 - 1

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


class Timeline(ctypes.Structure):
    """The loads of a GPU or of a module's CPU."""

    _fields_ = [("count", _u64), ("pieces", Piece * PIECES)]


class Counter(ctypes.Structure):
    """What the energy counter counts, from start_s on."""

    _fields_ = [*_each(_f64, "start_s joules_before base_mj gain"), ("module", _i64)]


class Gpu(ctypes.Structure):
    """One GPU's load, faults, readings and call counts."""

    _fields_ = [
        ("timeline", Timeline),
        ("counter_count", _u64),
        ("counters", Counter * COUNTERS),
        *_each(_f64, "update_period_s update_offset_s averaging_window_s gain energy_update_period_s"),
        ("energy_stuck_s", _f64),
        *_each(_u64, "lost power_supported instant_supported energy_supported module_power_supported"),
        ("limits_supported", _u64),
        *_each(_u64, "hung denied"),
        ("call_delays_s", _f64 * CALL_CLASSES),
        ("power_override_watts", _f64),
        *_each(_u64, "architecture compute_major compute_minor mig_slices"),
        ("module", _i64),
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


class Module(ctypes.Structure):
    """A superchip's CPU and topology."""

    _fields_ = [("cpu", Timeline), ("topology", _u64)]


class State(ctypes.Structure):
    """The whole file."""

    _fields_ = [
        *_each(_u64, "magic version size"),
        ("origin_ns", _i64),
        *_each(_u64, "loaded generation gpu_count cuda_version hung"),
        ("call_delays_s", _f64 * DRIVER_CALLS),
        ("calls", _u64 * DRIVER_CALLS),
        *_each(_u64, "replaced forgets_fork"),
        ("driver_version", ctypes.c_char * 80),
        ("gpus", Gpu * MAX_GPUS),
        ("modules", Module * MAX_MODULES),
    ]
