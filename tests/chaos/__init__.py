"""A whole Sluice under load while everything around it fails, and the count at the end.

    python -m tests.chaos [--seed N] [--seconds N] [--short]

It brings up a stack of its own and sends it events by the API and by the queue. Meanwhile
- the stand-in throttles, fails, hangs, resets, refuses the account, and refuses single events;
- each dispatch and resume runs as on Lambda, under the real Runtime Interface Emulator, and is killed by
  SIGKILL in the middle of chosen calls, or stopped there until the function's timeout ends it;
- one accepted message, the poison, ends every process that reads it;
- calls to AWS fail before or after they are done, SendMessageBatch answers `Failed`, the queue hands
  messages out twice.

Then it waits until the system is at rest and counts, at the stand-in and in the archive, by a mark in every
event: accepted = delivered + rejected, nothing lost, nothing delivered twice, no 429 that was not injected,
rejected only what is bad, dead letters only the poison. One line says so; the exit status is 0 only if it
holds, and if there were kills and timeouts at all.

"Twice" means recorded twice under any unique_id. The stand-in refuses a unique_id that it has, as the
upstream does, so what this finds is an event whose unique_id or profile changed between two tries.

The seed decides everything that is by chance here: the events and when they are sent, the faults and when
they begin, at which call of which kind a process is killed, which calls fail and which messages come twice. A
run with the same seed has the same schedule, and the line at its start the same digest of it. What it meets
is not bit for bit the same: processes run at once on a real clock, and dispatch has a randomness of its own
for its waits.

Time is pressed by about a hundred: the events queue's visibility timeout is 8 seconds instead of 17 minutes,
and the waits that dispatch chooses are cut to 3. Sixteen ends of the poison take minutes even so: `--short`
leaves it out, as well as the faults that have to be waited out.
"""
