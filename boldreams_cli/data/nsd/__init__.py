"""The Natural Scenes Dataset: the only place that knows its files."""
