"""What is known of the daemon's work: status, freshness, metrics, events."""
