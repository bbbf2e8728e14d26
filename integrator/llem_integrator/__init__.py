"""Reads scraped samples back and gives joules per GPU for any window."""
