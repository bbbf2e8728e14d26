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

#define NO_CLOCK UINT64_MAX /* not supported */

enum { MAX_GPUS = 64, MAX_MODULES = 64, MAX_MIG_SLICES = 7 };
enum { PIECES = 256, COUNTERS = 64, CLOCKS = 4, STATE_VERSION = 4 };
#define STATE_MAGIC UINT64_C(0x4c4d564e454b4146) /* "FAKENVML" */

/* GetFieldValues with the energy field among its fields is CALL_ENERGY. CALL_OPEN finds a handle. */
enum call_class { CALL_FIELDS, CALL_ENERGY, CALL_POWER, CALL_SLOW, CALL_OPEN, CALL_CLASSES };
/* The calls without a handle that can be slow or hang. */
enum driver_call { CALL_INIT, CALL_SHUTDOWN, CALL_COUNT, DRIVER_CALLS };

/* Times are seconds since origin_ns: as seconds since 1970 they would leave a float64 only 0.2 us. */
typedef struct {
    double start_s;
    double joules_before; /* from the origin to start_s */
    double low_watts, high_watts, duty, period_s, phase;
    double sine_watts, sine_period_s, sine_phase;
} piece_t;

/* The loads of a GPU or of a module's CPU, one after the other. */
typedef struct {
    _Atomic uint64_t count;
    piece_t pieces[PIECES]; /* entry n is at n % PIECES */
} timeline_t;

typedef struct {
    double start_s;
    double joules_before; /* from the origin to start_s: the piece that held then may be overwritten */
    double base_mj;       /* the counter at start_s */
    double gain;          /* counted joules for each true one */
    int64_t module;       /* the module whose joules are counted; negative: the GPU's own */
} counter_t;

/* A superchip: a CPU, and the GPUs that name this module. */
typedef struct {
    timeline_t cpu;
    _Atomic uint64_t topology; /* nvmlDeviceGetTopologyCommonAncestor of two of its GPUs */
} module_t;

typedef struct {
    timeline_t timeline;
    _Atomic uint64_t counter_count;
    counter_t counters[COUNTERS];

    /* sensor */
    _Atomic double update_period_s, update_offset_s, averaging_window_s, gain, energy_update_period_s;
    _Atomic double energy_stuck_s; /* the counter stands still from here on; infinity: it moves; -infinity: it is 0 */

    /* faults */
    _Atomic uint64_t lost, power_supported, instant_supported, energy_supported, module_power_supported;
    _Atomic uint64_t limits_supported;
    _Atomic uint64_t hung, denied; /* bit n: calls of class n do not return, or answer NO_PERMISSION */
    _Atomic double call_delays_s[CALL_CLASSES];
    _Atomic double power_override_watts; /* negative: none */

    /* kind of GPU */
    _Atomic uint64_t architecture, compute_major, compute_minor, mig_slices;
    _Atomic int64_t module; /* negative: no superchip */
    char name[96], uuid[80], serial[32]; /* an empty serial is not supported */
    _Atomic uint64_t pci_bus, pci_device_id, minor_number;

    /* readings */
    _Atomic uint64_t memory_total_bytes, memory_used_bytes, memory_reserved_bytes;
    _Atomic uint64_t utilization_percent, memory_utilization_percent, temperature_celsius;
    _Atomic int64_t fan_percent; /* negative: no fan */
    _Atomic uint64_t power_limit_mw, default_limit_mw, min_limit_mw, max_limit_mw;
    _Atomic uint64_t throttle_reasons, persistence_mode, performance_state, compute_mode;
    _Atomic uint64_t clocks_mhz[CLOCKS], max_clocks_mhz[CLOCKS]; /* graphics, SM, memory, video; or NO_CLOCK */

    _Atomic uint64_t calls[CALL_CLASSES];
} gpu_t;

typedef struct {
    uint64_t magic, version, size;
    int64_t origin_ns; /* since 1970 */
    _Atomic uint64_t loaded;
    _Atomic uint64_t generation; /* grows when the driver is loaded anew: what was initialised before is stale */
    _Atomic uint64_t gpu_count;
    _Atomic uint64_t cuda_version;
    _Atomic uint64_t hung;         /* bit n: driver call n does not return */
    _Atomic double call_delays_s[DRIVER_CALLS];
    _Atomic uint64_t calls[DRIVER_CALLS];
    _Atomic uint64_t replaced;     /* the kernel's part of the driver is newer than this library */
    _Atomic uint64_t forgets_fork; /* a forked child must initialise anew */
    char driver_version[80];
    gpu_t gpus[MAX_GPUS];
    module_t modules[MAX_MODULES];
} state_t;

#endif
