#include "driver.h"

#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS_PER_GPU = 1 + MAX_MIG_SLICES, HANG_LIMIT_S = 600 };

/* Only the addresses count. Static, so that they survive fork, shutdown and a new init, as the real ones do. */
static struct slot {
    char unused;
} slots[MAX_GPUS * SLOTS_PER_GPU];

/* No lock anywhere: a mutex held by another thread at fork would never be released in the child. */
static state_t *_Atomic mapped;
static _Atomic int users;
static _Atomic pid_t initialised_by;
static _Atomic uint64_t generation;

static state_t *map_state(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return NULL;
    struct stat info;
    state_t *state = MAP_FAILED;
    if (fstat(file, &info) == 0 && info.st_size == (off_t)sizeof(state_t))
        state = mmap(NULL, sizeof(state_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (state == MAP_FAILED) return NULL;
    if (state->magic == STATE_MAGIC && state->version == STATE_VERSION && state->size == sizeof(state_t))
        return state;
    munmap(state, sizeof(state_t));
    return NULL;
}

static void sleep_s(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    while (nanosleep(&left, &left) != 0) continue;
}

/* Sleep, then hang while bit n of `hung` is set. False: after HANG_LIMIT_S it is still set. */
static int delay(double delay_s, const _Atomic uint64_t *hung, int n) {
    if (delay_s > 0) sleep_s(delay_s);
    for (double waited_s = 0; *hung >> n & 1 && waited_s < HANG_LIMIT_S; waited_s += 0.005) sleep_s(0.005);
    return !(*hung >> n & 1);
}

int enter_driver(state_t *state, enum driver_call call) {
    atomic_fetch_add(&state->calls[call], 1);
    return delay(state->call_delays_s[call], &state->hung, call);
}

/* Whether what this process's parent initialised before a fork counts for nothing here. */
static int forked(const state_t *state) { return state->forgets_fork && atomic_load(&initialised_by) != getpid(); }

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    state_t *state = atomic_load(&mapped);
    if (state != NULL && forked(state)) atomic_store(&users, 0);
    if (state == NULL || atomic_load(&users) == 0) {
        /* A mapping left behind by an earlier init stays: a late thread may still be reading it. */
        state = map_state();
        if (state == NULL) return NVML_ERROR_DRIVER_NOT_LOADED;
        atomic_store(&mapped, state);
    }
    if (!enter_driver(state, CALL_INIT)) return NVML_ERROR_TIMEOUT;
    if (!state->loaded) return NVML_ERROR_DRIVER_NOT_LOADED;
    if (state->replaced) return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    atomic_store(&generation, state->generation);
    atomic_store(&initialised_by, getpid());
    atomic_fetch_add(&users, 1);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void) {
    state_t *state = atomic_load(&mapped);
    if (state != NULL && !enter_driver(state, CALL_SHUTDOWN)) return NVML_ERROR_TIMEOUT;
    int before = atomic_load(&users);
    do {
        if (before == 0) return NVML_ERROR_UNINITIALIZED;
    } while (!atomic_compare_exchange_weak(&users, &before, before - 1));
    return NVML_SUCCESS;
}

state_t *initialised(void) {
    state_t *state = atomic_load(&mapped);
    if (state == NULL || atomic_load(&users) == 0 || !state->loaded || forked(state)) return NULL;
    return state->generation == atomic_load(&generation) ? state : NULL;
}

nvmlDevice_t handle_of(unsigned index, int slice) { return &slots[index * SLOTS_PER_GPU + 1 + slice]; }

nvmlReturn_t enter(nvmlDevice_t device, enum call_class call, target_t *target) {
    state_t *state = atomic_load(&mapped);
    if (state == NULL || atomic_load(&users) == 0 || forked(state)) return NVML_ERROR_UNINITIALIZED;
    if (device < slots || device >= slots + sizeof slots / sizeof *slots) return NVML_ERROR_INVALID_ARGUMENT;
    unsigned n = (unsigned)(device - slots);
    target->state = state;
    target->index = n / SLOTS_PER_GPU;
    target->slice = (int)(n % SLOTS_PER_GPU) - 1;
    gpu_t *gpu = target->gpu = &state->gpus[target->index];

    atomic_fetch_add(&gpu->calls[call], 1);
    if (!delay(gpu->call_delays_s[call], &gpu->hung, call)) return NVML_ERROR_TIMEOUT;
    if (!state->loaded) return NVML_ERROR_UNINITIALIZED;
    if (state->generation != atomic_load(&generation)) return NVML_ERROR_GPU_IS_LOST;
    if (gpu->lost || target->index >= state->gpu_count) return NVML_ERROR_GPU_IS_LOST;
    if (gpu->denied >> call & 1) return NVML_ERROR_NO_PERMISSION;
    if (target->slice >= (int)gpu->mig_slices) return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

nvmlReturn_t copy_text(const char *text, char *buffer, unsigned length) {
    if (buffer == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

/* A slice's is the GPU's own with another prefix and its last byte replaced: unlike every other, and stable. */
void uuid_of(const target_t *target, char uuid[80]) {
    if (target->slice < 0)
        snprintf(uuid, 80, "%s", target->gpu->uuid);
    else
        snprintf(uuid, 80, "MIG-%.34s%02x", target->gpu->uuid + strlen("GPU-"), (unsigned)target->slice);
}
