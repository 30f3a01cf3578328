"""How many tokens a request is: bounds at once, exact counts where they matter."""
