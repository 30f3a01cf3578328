"""Who may go now: pools."""
