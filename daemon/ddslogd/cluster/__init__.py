"""Several collectors that share a fleet: the engine on PostgreSQL, whose clock and transactions decide."""
