"""The libraries that read energy, one file each; no other file imports them, and these only when called."""
