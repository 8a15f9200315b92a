"""What each command does; cli.py only parses."""
