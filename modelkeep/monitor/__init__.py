"""Has the world, or the quality of the answers, changed? Compares captured traffic with a version's reference rows."""
