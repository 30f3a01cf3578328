"""Where a call may go: tiers, deployments and the plan made of them."""
