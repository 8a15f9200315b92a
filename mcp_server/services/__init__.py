"""What a door may ask for: one module per domain, each method one operation on the engines."""
