"""What is on disk: files, streams, and the ledger of both."""
