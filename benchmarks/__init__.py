"""Measurements beside other software, on the machine at hand. `make bench` runs them all and writes README.md and results/."""
