"""What engines' own projects publish as recipes, read from a checkout of them."""
