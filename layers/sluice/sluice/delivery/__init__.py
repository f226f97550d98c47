"""Events on the queue end upstream or among the rejections: packing, pacing, issuing, triage."""
