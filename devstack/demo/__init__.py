"""Shows Sluice at work, on real data, with proof.

`python -m devstack.demo` starts a stack of its own and sends it the CDNOW purchases (`devstack/data`) in
every way in which a caller would, a few of them wrong on purpose. It waits until each purchase has an
outcome. Then it asks the fake upstream and the archive of rejections for the outcomes, so the table at the
end is read there and not assumed.

`purchases` makes events of the data, `proof` compares and counts: both are pure. `sending` plays the callers,
`outcomes` looks at the other end, `screen` shows all of it.
"""
