#include "load.h"

#include <math.h>
#include <stdatomic.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double now_s(const state_t *state) { return (double)(now_ns() - state->origin_ns) * 1e-9; }

int64_t now_us(void) { return now_ns() / 1000; }

static const piece_t *piece_at(const timeline_t *timeline, double t) {
    uint64_t count = atomic_load(&timeline->count);
    uint64_t oldest = count > PIECES ? count - PIECES : 0;
    uint64_t n = count - 1;
    while (n > oldest && timeline->pieces[n % PIECES].start_s > t) n--;
    return &timeline->pieces[n % PIECES];
}

static const counter_t *counter_at(const gpu_t *gpu, double t) {
    uint64_t count = atomic_load(&gpu->counter_count);
    uint64_t oldest = count > COUNTERS ? count - COUNTERS : 0;
    uint64_t n = count - 1;
    while (n > oldest && gpu->counters[n % COUNTERS].start_s > t) n--;
    return &gpu->counters[n % COUNTERS];
}

double true_watts(const timeline_t *timeline, double t) {
    const piece_t *p = piece_at(timeline, t);
    double cycles = t / p->period_s + p->phase;
    double square = cycles - floor(cycles) < p->duty ? p->high_watts : p->low_watts;
    return square + p->sine_watts * sin(2 * M_PI * t / p->sine_period_s + p->sine_phase);
}

/* An antiderivative of one piece's power. */
static double piece_joules(const piece_t *p, double t) {
    double cycles = t / p->period_s + p->phase;
    double whole = floor(cycles);
    double high_s = (whole * p->duty + fmin(cycles - whole, p->duty)) * p->period_s;
    double turn_s = p->sine_period_s / (2 * M_PI);
    return p->low_watts * t + (p->high_watts - p->low_watts) * high_s
           - p->sine_watts * turn_s * cos(t / turn_s + p->sine_phase);
}

double true_joules(const timeline_t *timeline, double t) {
    const piece_t *p = piece_at(timeline, t);
    return p->joules_before + (piece_joules(p, t) - piece_joules(p, p->start_s));
}

static double last_update(double t, double period_s, double offset_s) {
    return period_s > 0 ? floor((t - offset_s) / period_s) * period_s + offset_s : t;
}

double sensor_watts(const gpu_t *gpu, double t, double averaging_s) {
    double updated = last_update(t, gpu->update_period_s, gpu->update_offset_s);
    double watts = averaging_s > 0
        ? (true_joules(&gpu->timeline, updated) - true_joules(&gpu->timeline, updated - averaging_s)) / averaging_s
        : true_watts(&gpu->timeline, updated);
    return gpu->gain * watts;
}

double module_watts(const state_t *state, int64_t module, double t, double averaging_s) {
    double watts = true_watts(&state->modules[module].cpu, t);
    for (const gpu_t *gpu = state->gpus; gpu < state->gpus + MAX_GPUS; gpu++)
        if (gpu->module == module) watts += sensor_watts(gpu, t, averaging_s);
    return watts;
}

static double module_joules(const state_t *state, int64_t module, double t) {
    double joules = true_joules(&state->modules[module].cpu, t);
    for (const gpu_t *gpu = state->gpus; gpu < state->gpus + MAX_GPUS; gpu++)
        if (gpu->module == module) joules += true_joules(&gpu->timeline, t);
    return joules;
}

double counter_mj(const state_t *state, const gpu_t *gpu, double t) {
    double stuck_s = gpu->energy_stuck_s;
    if (stuck_s == -INFINITY) return 0;
    t = fmin(t, stuck_s);
    const counter_t *c = counter_at(gpu, t);
    double updated = last_update(t, gpu->energy_update_period_s, gpu->update_offset_s);
    if (updated < c->start_s) return c->base_mj;
    double joules = c->module < 0 ? true_joules(&gpu->timeline, updated) : module_joules(state, c->module, updated);
    return c->base_mj + 1000 * c->gain * (joules - c->joules_before);
}
