"""A person in a browser: what there is, what happens now, and the changes that a person may make, through Keep only."""
