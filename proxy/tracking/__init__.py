"""What of a database is tracked, the triggers that note its changes, and what a note says."""
