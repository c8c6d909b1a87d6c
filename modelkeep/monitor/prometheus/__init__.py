"""Files and processes for Prometheus, Alertmanager and Grafana: what is written, what is started, what comes back."""
