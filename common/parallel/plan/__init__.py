"""What a run needs, counted before a single GPU is rented: memory, work, traffic and time."""
