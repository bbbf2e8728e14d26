"""Power samples: running sums of the trapezoids at the edges of windows."""
