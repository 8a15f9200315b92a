"""Who is calling: keys, tenants and the principal that a door makes of them."""
