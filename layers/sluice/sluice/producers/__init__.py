"""What others put on the queue themselves: envelopes, bodies, objects of lines."""
