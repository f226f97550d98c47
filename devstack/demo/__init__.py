"""Sluice at work, on real data, with proof.

`python -m devstack.demo` starts a stack of its own, sends it the CDNOW purchases (`devstack/data`) in every
way a caller would, a few of them wrong on purpose, waits until each has an outcome, and then asks the
fake upstream and the archive of rejections what became of them: what is printed at the end is read there,
not assumed.

`purchases` makes events of the data, `proof` compares and counts: both are pure. `sending` is the callers'
side, `outcomes` looks at the other end, `screen` shows all of it.
"""
