"""PromQL queries of a store: their size, how they are divided, and their answers."""
