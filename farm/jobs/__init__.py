"""Jobs: what to render, how people ask for it, and how it stands."""
