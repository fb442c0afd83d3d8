"""The main job measured: data sets, scenarios, the report."""
