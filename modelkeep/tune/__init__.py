"""Same weights, best runtime settings: measured on this machine, through the serving plane."""
