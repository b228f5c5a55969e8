"""Rendered hand signs 0 to 5: a data set that needs no files.

`render.py` makes one picture and `dataset.py` a data set of them. `python -m datasets.rendered OUT.png`
shows sixty.
"""
