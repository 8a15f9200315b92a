"""The run engine: long work as rows with numbered events, executed in this process."""
