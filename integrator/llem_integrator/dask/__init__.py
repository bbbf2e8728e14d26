"""The power traces read by many processes: their stretches and shares, and the cluster that runs them."""
