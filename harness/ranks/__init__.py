"""An engine on several nodes: what runs on each, what each shows, plans for other schedulers."""
