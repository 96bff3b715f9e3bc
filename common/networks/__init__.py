"""Networks as plain data: a graph, and arrays by name. Nothing here needs an engine."""
