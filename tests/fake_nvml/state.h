/* The driver's state: one file, mapped by every process that loads the library and by the Python side.
 *
 * layout.py mirrors these structs field by field; both sides compare `size`, so that a forgotten field fails at
 * nvmlInit instead of shifting every value after it. All numbers are 8 bytes wide: one store, never torn.
 *
 * What must change as a set (a load, a counter's base) is never changed at all: a new entry is appended with the
 * time from which it holds, and published by its count. Readers need no lock, and every process agrees to the
 * microsecond on which entry holds when. */
#ifndef FAKE_NVML_STATE_H
#define FAKE_NVML_STATE_H

#include <stdint.h>

enum { MAX_GPUS = 64, MAX_MIG_SLICES = 7, PIECES = 256, COUNTERS = 64, CLOCKS = 4, STATE_VERSION = 3 };
#define STATE_MAGIC UINT64_C(0x4c4d564e454b4146) /* "FAKENVML" */

enum call_class { CALL_FIELDS, CALL_ENERGY, CALL_POWER, CALL_SLOW, CALL_CLASSES };

/* Times are seconds since origin_ns: as seconds since 1970 they would leave a float64 only 0.2 us. */
typedef struct {
    double start_s;
    double joules_before; /* from the origin to start_s */
    double low_watts, high_watts, duty, period_s, phase;
    double sine_watts, sine_period_s, sine_phase;
} piece_t;

typedef struct {
    double start_s;
    double joules_before; /* from the origin to start_s: the piece that held then may be overwritten */
    double base_mj, module_base_mj; /* the counter at start_s: the GPU's, and its whole module's */
    double gain;                    /* counted joules for each true one */
    double module_watts;            /* what a Grace CPU beside the GPU draws */
} counter_t;

typedef struct {
    _Atomic uint64_t piece_count;
    piece_t pieces[PIECES]; /* entry n is at n % PIECES */
    _Atomic uint64_t counter_count;
    counter_t counters[COUNTERS];

    /* sensor */
    _Atomic double update_period_s, update_offset_s, averaging_window_s, gain, energy_update_period_s;

    /* faults */
    _Atomic uint64_t lost, hung, power_supported, instant_supported, energy_supported;
    _Atomic uint64_t denied; /* bit n: calls of class n answer NO_PERMISSION */
    _Atomic double slow_call_s;
    _Atomic double power_override_watts; /* negative: none */

    /* kind of GPU */
    _Atomic uint64_t architecture, compute_major, compute_minor, grace_hopper, mig_slices;
    char name[96], uuid[80], serial[32];
    _Atomic uint64_t pci_bus, pci_device_id, minor_number;

    /* readings */
    _Atomic uint64_t memory_total_bytes, memory_used_bytes, memory_reserved_bytes;
    _Atomic uint64_t utilization_percent, memory_utilization_percent, temperature_celsius;
    _Atomic int64_t fan_percent; /* negative: no fan */
    _Atomic uint64_t power_limit_mw, default_limit_mw, min_limit_mw, max_limit_mw;
    _Atomic uint64_t throttle_reasons, persistence_mode, performance_state, compute_mode;
    _Atomic uint64_t clocks_mhz[CLOCKS], max_clocks_mhz[CLOCKS]; /* graphics, SM, memory, video */

    _Atomic uint64_t calls[CALL_CLASSES];
} gpu_t;

typedef struct {
    uint64_t magic, version, size;
    int64_t origin_ns; /* since 1970 */
    _Atomic uint64_t loaded;
    _Atomic uint64_t generation; /* grows when the driver is loaded anew: what was initialised before is stale */
    _Atomic uint64_t gpu_count;
    _Atomic uint64_t cuda_version;
    _Atomic uint64_t init_hung;   /* nvmlInit does not return */
    _Atomic uint64_t replaced;    /* the kernel's part of the driver is newer than this library */
    _Atomic uint64_t forgets_fork; /* a forked child must initialise anew */
    char driver_version[80];
    gpu_t gpus[MAX_GPUS];
} state_t;

#endif
