"""What keeps answers coming when providers fail: breaker, retry, fallback, ladder."""
