"""A session's input items: one format a module, chosen in `formats`. Knows no model, only what its signature takes."""
