"""The bench of porting faults: layers as they are shipped, right ports of them, and planted faults.

Run it by `python benchmarks/porting_faults.py`. `layer.py` says what a layer is; the other files hold the layers by
kind; `record.py` runs one layer and notes what the verdict said; `page.py` writes the tables.
"""
