"""Which statements a tenant may run. Imports of this package load the parser, so they happen on first use."""
