"""The pytest plugin behind `eca_multi/_pytest_plugin.py`: marks, collection, shared runs, outcomes, summary."""
