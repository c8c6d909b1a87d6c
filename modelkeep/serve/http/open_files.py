"""Files that a process may have open: each connection is one, and workers, databases and models need some too."""

from __future__ import annotations

import contextlib
import logging

SPARE = 512
"""Kept from connections: pipes and shared memory of workers, versions that are loaded, databases, logs."""
log = logging.getLogger(__name__)


def connections(wanted: int) -> int:
    """So many of ``wanted`` connections leave enough files for the rest; the system's bound is raised where it may be.

    Or idle clients alone, who cost nothing else, could keep a worker from being replaced and a version from loading.
    """
    try:
        import resource
    except ImportError:  # Windows has no such bound
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    fewer = soft - min(SPARE, soft // 2)
    log.warning("this process may open %d files, so it takes %d connections and not %d: ulimit -n", soft, fewer, wanted)
    return fewer
