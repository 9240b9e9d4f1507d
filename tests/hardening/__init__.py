"""Threats of docs/explanation/threat-model.md whose proof needs an attack of its own size or kind."""
