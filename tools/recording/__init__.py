"""Records a command's output in a terminal, and draws it as an SVG that plays it.

`terminal` turns what the command writes into screens, and `drawing` turns timed screens into an SVG. Both are
pure. `make recording` runs the demo and writes `docs/demo.svg`. A viewer that plays no animation shows the
last screen.
"""
