"""Side-by-side measurements, each a command with a documented result."""
