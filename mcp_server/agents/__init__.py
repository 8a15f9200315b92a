"""Agents: their definitions, and the loop of model and tools that chat shares with them."""
