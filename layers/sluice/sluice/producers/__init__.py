"""Takes what producers put on the queue themselves: envelopes, bodies, objects of lines."""
