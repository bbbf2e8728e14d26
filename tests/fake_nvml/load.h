/* The load, its sensor and its counter, in closed form. Times are seconds since the state's origin. */
#ifndef FAKE_NVML_LOAD_H
#define FAKE_NVML_LOAD_H

#include "state.h"

double now_s(const state_t *state);
int64_t now_us(void);

double true_watts(const gpu_t *gpu, double t);
double true_joules(const gpu_t *gpu, double t); /* from the origin to t */

/* What the sensor shows at t: the mean over averaging_s before its last update; 0 is the power at the update. */
double sensor_watts(const gpu_t *gpu, double t, double averaging_s);
double counter_mj(const gpu_t *gpu, double t, int module);
double module_watts(const gpu_t *gpu, double t);

#endif
