"""Who is told what happened: access log, traces, profiles, samples, usage. Nothing waits for them."""
