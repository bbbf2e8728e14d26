"""Which windows: lists of jobs, a job's own GPUs and times, and the wait for what is still to come."""
