"""Which versions there are: bare models or a registry, and what may change while they are served."""
