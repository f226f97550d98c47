"""Runs a whole Sluice under load while everything around it fails, and counts at the end.

    python -m tests.chaos [--seed N] [--seconds N] [--short]

It brings up a stack of its own and sends it events by the API and by the queue. Meanwhile these things
happen:

- The fake upstream throttles, fails, hangs, resets, refuses the account, and refuses single events.
- Each dispatch and resume runs as on Lambda, under the real Runtime Interface Emulator. It is killed by
  SIGKILL in the middle of chosen calls, or stopped there until the function's timeout ends it.
- One accepted message, the poison, ends every process that reads it.
- Calls to AWS fail before or after they are done, SendMessageBatch answers `Failed`, and the queue hands
  messages out twice.

Then it waits until the system is at rest. It counts at the fake upstream and in the archive, by a mark in
every event. These must hold: accepted = delivered + rejected, nothing is lost or delivered twice, and there
is no 429 that was not injected. Only bad events are rejected, and only the poison is a dead letter. One line
says so. The exit status is 0 only if all of it holds, and if there were kills and timeouts at all.

"Twice" means recorded twice under any unique_id. The fake upstream refuses a unique_id that it has, as the
upstream does. So this finds an event whose unique_id or profile changed between two tries.

The seed decides everything that is random here: the events and when they are sent, and the faults and when
they begin. It also decides at which call a process is killed, which calls fail and which messages come twice.
A run with the same seed has the same schedule, and the line at its start has the same digest of it. The
events of the run are not bit for bit the same: processes run at once on a real clock, and dispatch draws its
waits by itself.

Time is compressed by about a hundred: the events queue's visibility timeout is 8 seconds instead of 17
minutes, and the waits that dispatch chooses are cut to 3. Sixteen ends of the poison take minutes even so.
`--short` leaves the poison out, and the faults that have to be waited out.
"""
