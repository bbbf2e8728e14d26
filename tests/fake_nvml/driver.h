/* What every NVML call shares: the mapped state, initialisation, handles, call counts and faults. */
#ifndef FAKE_NVML_DRIVER_H
#define FAKE_NVML_DRIVER_H

#include "state.h"

#define EXPORT __attribute__((visibility("default")))

typedef enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
} nvmlReturn_t;

enum { ARCH_VOLTA = 5, ARCH_AMPERE = 7 };

/* A handle is the address of a slot: the GPU's own, or one of its MIG slices'. */
typedef struct slot *nvmlDevice_t;

typedef struct {
    const state_t *state;
    gpu_t *gpu;
    unsigned index;
    int slice; /* -1: the whole GPU */
} target_t;

/* Every call on a handle begins here: counts it, then sleeps, hangs or fails as the faults say. */
nvmlReturn_t enter(nvmlDevice_t device, enum call_class call, target_t *target);

/* Every call without a handle that can be slow or hang begins here: counts it, then sleeps. False: it hung too long. */
int enter_driver(state_t *state, enum driver_call call);

/* The state of calls without a handle, or NULL: answer NVML_ERROR_UNINITIALIZED. */
state_t *initialised(void);

nvmlDevice_t handle_of(unsigned index, int slice);
nvmlReturn_t copy_text(const char *text, char *buffer, unsigned length);
void uuid_of(const target_t *target, char uuid[80]);

#endif
