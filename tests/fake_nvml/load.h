/* The load, its sensor and its counter, in closed form. Times are seconds since the state's origin. */
#ifndef FAKE_NVML_LOAD_H
#define FAKE_NVML_LOAD_H

#include "state.h"

double now_s(const state_t *state);
int64_t now_us(void);

double true_watts(const timeline_t *timeline, double t);
double true_joules(const timeline_t *timeline, double t); /* from the origin to t */

/* What the sensor shows at t: the mean over averaging_s before its last update; 0 is the power at the update. */
double sensor_watts(const gpu_t *gpu, double t, double averaging_s);
/* The sensors of a module's GPUs together, and the power of its CPU, which has no sensor. */
double module_watts(const state_t *state, int64_t module, double t, double averaging_s);

double counter_mj(const state_t *state, const gpu_t *gpu, double t);

#endif
