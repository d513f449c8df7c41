"""The status page, the metrics and the status as JSON, over HTTP."""
