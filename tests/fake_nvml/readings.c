/* Everything but power and energy: identity, limits, temperatures, clocks, MIG. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { TOPOLOGY_INTERNAL = 0, TOPOLOGY_SYSTEM = 50 };
enum { CLOCK_CURRENT = 0, CLOCK_BOOST_MAX = 3 };

#define CALL_BEGIN()                                                                                            \
    target_t target;                                                                                               \
    nvmlReturn_t result = enter(device, CALL_SLOW, &target);                                                       \
    if (result != NVML_SUCCESS) return result;                                                                     \
    const gpu_t *gpu = target.gpu;                                                                                 \
    (void)gpu

/* One settable number in one `unsigned *`. */
#define NUMBER(function, value)                                                                                    \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *out) {                                             \
        CALL_BEGIN();                                                                                              \
        *out = (unsigned)(value);                                                                                  \
        return NVML_SUCCESS;                                                                                       \
    }

/* A caller may pass any arguments: the C calling convention leaves their removal to it. */
#define ANSWERS(function, answer)                                                                                  \
    EXPORT nvmlReturn_t function(nvmlDevice_t device) {                                                            \
        CALL_BEGIN();                                                                                              \
        return answer;                                                                                             \
    }
#define NOT_SUPPORTED(function) ANSWERS(function, NVML_ERROR_NOT_SUPPORTED)
#define NO_PERMISSION(function) ANSWERS(function, NVML_ERROR_NO_PERMISSION)

/* ---- the system ---- */

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *buffer, unsigned length) {
    const state_t *state = initialised();
    return state ? copy_text(state->driver_version, buffer, length) : NVML_ERROR_UNINITIALIZED;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *buffer, unsigned length) {
    const state_t *state = initialised();
    if (state == NULL) return NVML_ERROR_UNINITIALIZED;
    char version[sizeof state->driver_version + 24];
    snprintf(version, sizeof version, "%llu.%s", (unsigned long long)state->cuda_version / 1000, state->driver_version);
    return copy_text(version, buffer, length);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    const state_t *state = initialised();
    if (state == NULL) return NVML_ERROR_UNINITIALIZED;
    *version = (int)state->cuda_version;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    }
    return "Unknown Error";
}

/* ---- handles ---- */

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    state_t *state = initialised();
    if (state == NULL) return NVML_ERROR_UNINITIALIZED;
    if (!enter_driver(state, CALL_COUNT)) return NVML_ERROR_TIMEOUT;
    if (initialised() == NULL) return NVML_ERROR_UNINITIALIZED;
    *count = (unsigned)state->gpu_count;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *handle) {
    const state_t *state = initialised();
    if (state == NULL) return NVML_ERROR_UNINITIALIZED;
    if (index >= state->gpu_count) return NVML_ERROR_INVALID_ARGUMENT;
    target_t target;
    nvmlReturn_t result = enter(handle_of(index, -1), CALL_OPEN, &target);
    if (result == NVML_SUCCESS) *handle = handle_of(index, -1);
    return result;
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *handle) {
    return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

static void bus_id_of(const gpu_t *gpu, char bus_id[32]) {
    snprintf(bus_id, 32, "00000000:%02X:00.0", (unsigned)gpu->pci_bus & 0xff);
}

static int has_bus_id(const target_t *target, const char *wanted) {
    char bus_id[32];
    bus_id_of(target->gpu, bus_id);
    /* The domain may be written with four digits, as lspci does. */
    return target->slice < 0 && (strcasecmp(bus_id, wanted) == 0 || strcasecmp(bus_id + 4, wanted) == 0);
}

static int has_uuid(const target_t *target, const char *wanted) {
    char uuid[80];
    uuid_of(target, uuid);
    return strcmp(uuid, wanted) == 0;
}

static int has_serial(const target_t *target, const char *wanted) {
    return target->slice < 0 && strcmp(target->gpu->serial, wanted) == 0;
}

static nvmlReturn_t find(int (*matches)(const target_t *, const char *), const char *wanted, nvmlDevice_t *handle) {
    state_t *state = initialised();
    if (state == NULL) return NVML_ERROR_UNINITIALIZED;
    if (wanted == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned index = 0; index < state->gpu_count; index++)
        for (int slice = -1; slice < (int)state->gpus[index].mig_slices; slice++) {
            target_t target = {state, &state->gpus[index], index, slice};
            if (!matches(&target, wanted)) continue;
            nvmlReturn_t result = enter(handle_of(index, slice), CALL_OPEN, &target);
            if (result == NVML_SUCCESS) *handle = handle_of(index, slice);
            return result;
        }
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle) {
    return find(has_uuid, uuid, handle);
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *handle) {
    return find(has_serial, serial, handle);
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *handle) {
    return find(has_bus_id, bus_id, handle);
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *handle) {
    return find(has_bus_id, bus_id, handle);
}

/* ---- identity ---- */

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *buffer, unsigned length) {
    CALL_BEGIN();
    char name[128];
    if (target.slice < 0)
        snprintf(name, sizeof name, "%s", gpu->name);
    else
        snprintf(name, sizeof name, "%s MIG 1g.%ugb", gpu->name, (unsigned)(gpu->memory_total_bytes >> 30) / 8);
    return copy_text(name, buffer, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *buffer, unsigned length) {
    CALL_BEGIN();
    char uuid[80];
    uuid_of(&target, uuid);
    return copy_text(uuid, buffer, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *buffer, unsigned length) {
    CALL_BEGIN();
    if (gpu->serial[0] == '\0') return NVML_ERROR_NOT_SUPPORTED;
    return copy_text(gpu->serial, buffer, length);
}

NUMBER(nvmlDeviceGetIndex, target.slice < 0 ? target.index : (unsigned)target.slice)
NUMBER(nvmlDeviceGetMinorNumber, gpu->minor_number)
NUMBER(nvmlDeviceGetArchitecture, gpu->architecture)

typedef struct {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;
_Static_assert(sizeof(nvmlPciInfo_t) == 68, "nvml.h's nvmlPciInfo_t has 68 bytes");

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    CALL_BEGIN();
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)gpu->pci_bus;
    pci->device_id = (unsigned)gpu->pci_device_id;
    bus_id_of(gpu, pci->bus_id);
    snprintf(pci->legacy_bus_id, sizeof pci->legacy_bus_id, "%.12s", pci->bus_id + 4);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    CALL_BEGIN();
    *major = (int)gpu->compute_major;
    *minor = (int)gpu->compute_minor;
    return NVML_SUCCESS;
}

/* pynvml passes the bare struct, one unsigned without a version. */
EXPORT nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, unsigned *enabled) {
    CALL_BEGIN();
    if (gpu->module < 0) return NVML_ERROR_NOT_SUPPORTED;
    *enabled = 1;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other, unsigned *level) {
    CALL_BEGIN();
    target_t partner;
    result = enter(other, CALL_SLOW, &partner);
    if (result != NVML_SUCCESS) return result;
    if (gpu == partner.gpu)
        *level = TOPOLOGY_INTERNAL;
    else if (gpu->module >= 0 && gpu->module == partner.gpu->module)
        *level = (unsigned)target.state->modules[gpu->module].topology;
    else
        *level = TOPOLOGY_SYSTEM;
    return NVML_SUCCESS;
}

/* ---- readings ---- */

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

static unsigned long long memory_total(const target_t *target) {
    return target->slice < 0 ? target->gpu->memory_total_bytes : target->gpu->memory_total_bytes / 8;
}

static unsigned long long memory_used(const target_t *target) {
    return target->slice < 0 ? target->gpu->memory_used_bytes : 0;
}

/* Version 1 has no place for the reserved memory, and counts it as used. */
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    CALL_BEGIN();
    memory->total = memory_total(&target);
    memory->used = memory_used(&target) + gpu->memory_reserved_bytes;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    CALL_BEGIN();
    memory->total = memory_total(&target);
    memory->used = memory_used(&target);
    memory->reserved = gpu->memory_reserved_bytes;
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, unsigned rates[2]) {
    CALL_BEGIN();
    if (gpu->mig_slices > 0) return NVML_ERROR_NOT_SUPPORTED;
    rates[0] = (unsigned)gpu->utilization_percent;
    rates[1] = (unsigned)gpu->memory_utilization_percent;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius) {
    CALL_BEGIN();
    if (sensor != 0) return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = (unsigned)gpu->temperature_celsius;
    return NVML_SUCCESS;
}

typedef struct {
    unsigned version, sensor;
    int celsius;
} nvmlTemperature_t;

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
    CALL_BEGIN();
    if (temperature->sensor != 0) return NVML_ERROR_INVALID_ARGUMENT;
    temperature->celsius = (int)gpu->temperature_celsius;
    return NVML_SUCCESS;
}

#define LIMIT(function, value)                                                                                     \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *milliwatts) {                                      \
        CALL_BEGIN();                                                                                              \
        if (!gpu->limits_supported) return NVML_ERROR_NOT_SUPPORTED;                                               \
        *milliwatts = (unsigned)(value);                                                                           \
        return NVML_SUCCESS;                                                                                       \
    }
LIMIT(nvmlDeviceGetEnforcedPowerLimit, gpu->power_limit_mw)
LIMIT(nvmlDeviceGetPowerManagementLimit, gpu->power_limit_mw)
LIMIT(nvmlDeviceGetPowerManagementDefaultLimit, gpu->default_limit_mw)
NUMBER(nvmlDeviceGetPowerManagementMode, 1)

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *min, unsigned *max) {
    CALL_BEGIN();
    if (!gpu->limits_supported) return NVML_ERROR_NOT_SUPPORTED;
    *min = (unsigned)gpu->min_limit_mw;
    *max = (unsigned)gpu->max_limit_mw;
    return NVML_SUCCESS;
}

static nvmlReturn_t read_clock(nvmlDevice_t device, unsigned clock, int maximum, unsigned *mhz) {
    CALL_BEGIN();
    if (clock >= CLOCKS) return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t value = maximum ? gpu->max_clocks_mhz[clock] : gpu->clocks_mhz[clock];
    if (value == NO_CLOCK) return NVML_ERROR_NOT_SUPPORTED;
    *mhz = (unsigned)value;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned clock, unsigned *mhz) {
    return read_clock(device, clock, 0, mhz);
}
EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned clock, unsigned *mhz) {
    return read_clock(device, clock, 1, mhz);
}
EXPORT nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, unsigned clock, unsigned id, unsigned *mhz) {
    if (id != CLOCK_CURRENT && id != CLOCK_BOOST_MAX) return NVML_ERROR_NOT_SUPPORTED;
    return read_clock(device, clock, id == CLOCK_BOOST_MAX, mhz);
}

EXPORT nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned *percent) {
    CALL_BEGIN();
    if (gpu->fan_percent < 0) return NVML_ERROR_NOT_SUPPORTED;
    *percent = (unsigned)gpu->fan_percent;
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetPersistenceMode, gpu->persistence_mode)
NUMBER(nvmlDeviceGetPerformanceState, gpu->performance_state)
NUMBER(nvmlDeviceGetPowerState, gpu->performance_state)
NUMBER(nvmlDeviceGetComputeMode, gpu->compute_mode)
NUMBER(nvmlDeviceGetDisplayMode, 0)
NUMBER(nvmlDeviceGetDisplayActive, 0)

static nvmlReturn_t throttle_reasons(nvmlDevice_t device, unsigned long long *reasons) {
    CALL_BEGIN();
    *reasons = gpu->throttle_reasons;
    return NVML_SUCCESS;
}
static nvmlReturn_t supported_reasons(nvmlDevice_t device, unsigned long long *reasons) {
    CALL_BEGIN();
    *reasons = 0x1ff;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return throttle_reasons(device, reasons);
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return throttle_reasons(device, reasons);
}
EXPORT nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return supported_reasons(device, reasons);
}
EXPORT nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return supported_reasons(device, reasons);
}

/* Nothing ever runs on these GPUs. */
NUMBER(nvmlDeviceGetComputeRunningProcesses, 0)
NUMBER(nvmlDeviceGetComputeRunningProcesses_v2, 0)
NUMBER(nvmlDeviceGetComputeRunningProcesses_v3, 0)
NUMBER(nvmlDeviceGetGraphicsRunningProcesses, 0)
NUMBER(nvmlDeviceGetGraphicsRunningProcesses_v2, 0)
NUMBER(nvmlDeviceGetGraphicsRunningProcesses_v3, 0)
NUMBER(nvmlDeviceGetMPSComputeRunningProcesses, 0)
NUMBER(nvmlDeviceGetMPSComputeRunningProcesses_v2, 0)
NUMBER(nvmlDeviceGetMPSComputeRunningProcesses_v3, 0)

/* ---- MIG ---- */

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    CALL_BEGIN();
    if (gpu->architecture < ARCH_AMPERE || target.slice >= 0) return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = gpu->mig_slices > 0;
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetMaxMigDeviceCount, gpu->mig_slices > 0 ? MAX_MIG_SLICES : 0)
NUMBER(nvmlDeviceIsMigDeviceHandle, target.slice >= 0)

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned slice, nvmlDevice_t *handle) {
    CALL_BEGIN();
    if (target.slice >= 0) return NVML_ERROR_INVALID_ARGUMENT;
    if (slice >= gpu->mig_slices) return NVML_ERROR_NOT_FOUND;
    *handle = handle_of(target.index, (int)slice);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *handle) {
    CALL_BEGIN();
    if (target.slice < 0) return NVML_ERROR_INVALID_ARGUMENT;
    *handle = handle_of(target.index, -1);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) {
    CALL_BEGIN();
    if (target.slice < 0) return NVML_ERROR_NOT_SUPPORTED;
    *id = (unsigned)target.slice + 1;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id) {
    CALL_BEGIN();
    if (target.slice < 0) return NVML_ERROR_NOT_SUPPORTED;
    *id = 0;
    return NVML_SUCCESS;
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, optical_flows;
    unsigned gpu_slices, compute_slices;
    unsigned long long memory_mib;
} nvmlDeviceAttributes_t;
_Static_assert(sizeof(nvmlDeviceAttributes_t) == 40, "nvml.h's nvmlDeviceAttributes_t has 40 bytes");

/* Somewhat less memory than the profile's name says, as the real slices have. */
EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    CALL_BEGIN();
    if (target.slice < 0) return NVML_ERROR_NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessors = 16;
    attributes->gpu_slices = attributes->compute_slices = 1;
    attributes->memory_mib = memory_total(&target) / 8 * 7 >> 20;
    return NVML_SUCCESS;
}

/* ---- what these GPUs do not have, and what only root may do ---- */

NOT_SUPPORTED(nvmlDeviceGetBAR1MemoryInfo)
NOT_SUPPORTED(nvmlDeviceGetConfComputeMemSizeInfo)
NOT_SUPPORTED(nvmlDeviceGetDecoderUtilization)
NOT_SUPPORTED(nvmlDeviceGetDriverModel)
NOT_SUPPORTED(nvmlDeviceGetDriverModel_v2)
NOT_SUPPORTED(nvmlDeviceGetEccMode)
NOT_SUPPORTED(nvmlDeviceGetEncoderUtilization)
NOT_SUPPORTED(nvmlDeviceGetNvLinkState)
NOT_SUPPORTED(nvmlDeviceGetPcieThroughput)
NOT_SUPPORTED(nvmlDeviceGetProcessUtilization)
NOT_SUPPORTED(nvmlDeviceGetRunningProcessDetailList)
NOT_SUPPORTED(nvmlDeviceGetSupportedGraphicsClocks)
NOT_SUPPORTED(nvmlDeviceGetSupportedMemoryClocks)
NOT_SUPPORTED(nvmlDeviceGetTotalEccErrors)
NO_PERMISSION(nvmlDeviceResetGpuLockedClocks)
NO_PERMISSION(nvmlDeviceResetMemoryLockedClocks)
NO_PERMISSION(nvmlDeviceSetComputeMode)
NO_PERMISSION(nvmlDeviceSetGpuLockedClocks)
NO_PERMISSION(nvmlDeviceSetMemoryLockedClocks)
NO_PERMISSION(nvmlDeviceSetMigMode)
NO_PERMISSION(nvmlDeviceSetPersistenceMode)
NO_PERMISSION(nvmlDeviceSetPowerManagementLimit)
