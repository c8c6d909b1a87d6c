"""What the machine has left, and what monitoring costs."""

from __future__ import annotations

from scripts.dashboards.panels import BY, ONE, Page, Plot, rate

SERVER = 'job="modelkeep"'
MACHINE = Page(
    "machine",
    "modelkeep: machine",
    "Memory, CPU, GPUs and disk, and what monitoring itself costs.",
    (
        (
            "Memory and CPU",
            (
                Plot(
                    "Memory",
                    "bytes",
                    [
                        (f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}} server"),
                        (f"modelkeep_worker_resident_memory_bytes{{{ONE}}}", f"{BY} workers"),
                    ],
                    stack="normal",
                    width=12,
                ),
                Plot(
                    "CPU",
                    "short",
                    [
                        (f"rate(process_cpu_seconds_total{{{SERVER}}}[$__rate_interval])", "{{instance}} server"),
                        (rate("modelkeep_worker_cpu_seconds_total", "model", "version"), f"{BY} workers"),
                        ("modelkeep_machine_cpus", "{{instance}} cores"),
                    ],
                    "Seconds of CPU a second: cores that are busy.",
                    width=12,
                ),
                Plot(
                    "What a model takes",
                    "bytes",
                    [(f"modelkeep_model_memory_bytes{{{ONE}}}", BY)],
                    "Memory that loading and warming up took, in all of its workers.",
                ),
                Plot(
                    "Memory of the machine",
                    "bytes",
                    [
                        ("modelkeep_machine_memory_bytes", "{{instance}} in all"),
                        ("modelkeep_machine_memory_available_bytes", "{{instance}} to be had"),
                    ],
                ),
                Plot(
                    "Disk of the registry",
                    "bytes",
                    [
                        ("modelkeep_home_size_bytes", "{{instance}} in all"),
                        ("modelkeep_home_free_bytes", "{{instance}} free"),
                    ],
                ),
            ),
        ),
        (
            "GPUs (empty where there is none)",
            (
                Plot(
                    "Busy", "percentunit", [("modelkeep_gpu_busy_ratio", "{{instance}} {{gpu}} {{product}}")], width=6
                ),
                Plot(
                    "Memory",
                    "bytes",
                    [
                        ("modelkeep_gpu_memory_used_bytes", "{{instance}} {{gpu}} taken"),
                        ("modelkeep_gpu_memory_bytes", "{{instance}} {{gpu}} in all"),
                    ],
                    width=6,
                ),
                Plot("Of it, by version", "bytes", [(f"modelkeep_model_gpu_memory_bytes{{{ONE}}}", BY)], width=6),
                Plot(
                    "Power",
                    "watt",
                    [("rate(modelkeep_gpu_energy_joules_total[$__rate_interval])", "{{instance}} {{gpu}}")],
                    width=6,
                ),
            ),
        ),
        (
            "Monitoring itself",
            (
                Plot(
                    "CPU of watching",
                    "percentunit",
                    [
                        ("rate(modelkeep_monitor_cpu_seconds_total[$__rate_interval])", "{{instance}} gathering"),
                        ("rate(modelkeep_monitor_look_seconds_total[$__rate_interval])", "{{instance}} looking"),
                    ],
                    "Of one core.",
                ),
                Plot(
                    "Samples left out",
                    "short",
                    [
                        ("rate(modelkeep_monitor_dropped_total[$__rate_interval])", "{{instance}} {{sink}}"),
                        (
                            "rate(modelkeep_monitor_left_out_total[$__rate_interval])",
                            "{{instance}} not looked at: {{reason}}",
                        ),
                        ("rate(modelkeep_traffic_dropped_total[$__rate_interval])", "{{instance}} traffic"),
                        (
                            "rate(modelkeep_traffic_without_inputs_total[$__rate_interval])",
                            "{{instance}} traffic without inputs",
                        ),
                    ],
                    "What monitor says rests on fewer requests then; answers are not touched.",
                ),
                Plot("A scrape", "s", [(f"scrape_duration_seconds{{{SERVER}}}", "{{instance}}")]),
            ),
        ),
    ),
)
