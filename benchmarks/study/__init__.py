"""A worked study: what channel attention does for small networks on the data sets that scikit-learn bundles.

`make study` trains every kind of attention on every task and seed, and writes docs/study.md from what it measured.
"""
