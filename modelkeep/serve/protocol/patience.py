"""How long a connection is kept, and how long one that is still busy has at the end: the same through both doors."""

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that they close first."""
LAME_DUCK = 0.3
"""Seconds between the last connection accepted and idle ones closed: replies say 'close' meanwhile."""
PATIENCE = 5.0
"""Seconds that a request which is still coming in has at the end; whoever runs the server may kill it after 30."""
