"""A model on disk: what it is, what it takes and gives, whether two agree, how good one is."""
