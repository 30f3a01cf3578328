"""Service levels: contracts with customers, what was promised and kept, and shifts away from what burns."""
