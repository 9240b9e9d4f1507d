"""roomwire's side of the comparison: `app.py` and its configuration."""
