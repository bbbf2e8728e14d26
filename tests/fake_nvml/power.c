/* Power and energy: the calls that a sampler makes ten times a second. */
#include "driver.h"
#include "load.h"

#include <math.h>
#include <stddef.h>

enum { FIELD_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

typedef struct {
    unsigned field, scope;
    int64_t timestamp_us, latency_us;
    int type;
    nvmlReturn_t result;
    union {
        double as_double;
        unsigned as_unsigned;
        unsigned long long as_unsigned_long_long;
    } value;
} nvmlFieldValue_t;
_Static_assert(sizeof(nvmlFieldValue_t) == 40, "nvml.h's nvmlFieldValue_t has 40 bytes");

static unsigned long long whole(double value) { return value > 0 ? (unsigned long long)value : 0; }

static nvmlReturn_t read_power(const target_t *target, double averaging_s, int module, unsigned *milliwatts) {
    const gpu_t *gpu = target->gpu;
    if (target->slice >= 0 || !gpu->power_supported) return NVML_ERROR_NOT_SUPPORTED;
    double t = now_s(target->state);
    double watts = gpu->power_override_watts;
    if (watts < 0)
        watts = module ? module_watts(target->state, gpu->module, t, averaging_s) : sensor_watts(gpu, t, averaging_s);
    *milliwatts = (unsigned)whole(round(1000 * watts));
    return NVML_SUCCESS;
}

static nvmlReturn_t read_energy(const target_t *target, unsigned long long *millijoules) {
    const gpu_t *gpu = target->gpu;
    if (target->slice >= 0 || !gpu->energy_supported || gpu->architecture < ARCH_VOLTA)
        return NVML_ERROR_NOT_SUPPORTED;
    *millijoules = whole(counter_mj(target->state, gpu, now_s(target->state)));
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    target_t target;
    nvmlReturn_t result = enter(device, CALL_POWER, &target);
    if (result != NVML_SUCCESS) return result;
    if (milliwatts == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    const gpu_t *gpu = target.gpu;
    double averaging_s = gpu->architecture < ARCH_AMPERE ? gpu->averaging_window_s : 1.0;
    return read_power(&target, averaging_s, 0, milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    target_t target;
    nvmlReturn_t result = enter(device, CALL_ENERGY, &target);
    if (result != NVML_SUCCESS) return result;
    if (millijoules == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    return read_energy(&target, millijoules);
}

static nvmlReturn_t read_field(const target_t *target, nvmlFieldValue_t *field) {
    const gpu_t *gpu = target->gpu;
    int module = field->scope == SCOPE_MODULE;
    if (field->scope != SCOPE_GPU && !(module && gpu->module >= 0 && gpu->module_power_supported))
        return NVML_ERROR_NOT_SUPPORTED;
    switch (field->field) {
    case FIELD_ENERGY:
        field->type = TYPE_UNSIGNED_LONG_LONG;
        return read_energy(target, &field->value.as_unsigned_long_long);
    case FIELD_POWER_AVERAGE:
        if (gpu->architecture < ARCH_AMPERE) return NVML_ERROR_NOT_SUPPORTED;
        field->type = TYPE_UNSIGNED_INT;
        return read_power(target, 1.0, module, &field->value.as_unsigned);
    case FIELD_POWER_INSTANT:
        if (gpu->architecture < ARCH_AMPERE || !gpu->instant_supported) return NVML_ERROR_NOT_SUPPORTED;
        field->type = TYPE_UNSIGNED_INT;
        return read_power(target, gpu->averaging_window_s, module, &field->value.as_unsigned);
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields) {
    target_t target;
    int64_t begun_us = now_us();
    enum call_class call = CALL_FIELDS;
    for (int i = 0; fields != NULL && i < count; i++)
        if (fields[i].field == FIELD_ENERGY) call = CALL_ENERGY;
    nvmlReturn_t result = enter(device, call, &target);
    if (result != NVML_SUCCESS) return result;
    if (count <= 0 || fields == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        fields[i].value.as_unsigned_long_long = 0;
        fields[i].result = read_field(&target, &fields[i]);
        fields[i].timestamp_us = now_us();
        fields[i].latency_us = fields[i].timestamp_us - begun_us;
    }
    return NVML_SUCCESS;
}
