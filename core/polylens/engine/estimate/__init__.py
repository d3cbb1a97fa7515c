"""How much memory a run will take, from ``config.json`` alone."""
