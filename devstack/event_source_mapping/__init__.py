"""A faithful SQS event source mapping, for emulators whose own is not.

On AWS a mapping between a queue and a function gathers messages, invokes the function, and deletes what the
function did. Emulators cut that short: at most ten messages, no window, forgiving with broken answers; so
large batches and partial failures are tested against something that is never deployed.
`python -m devstack.event_source_mapping` takes the deployed mappings' settings from the Lambda API, keeps the
emulator's own mappings disabled, and does their work with the same public APIs: ReceiveMessage, Invoke,
DeleteMessageBatch. It serves any project; nothing here knows this one.

What it does, as AWS documents it
- A batch goes when it holds BatchSize messages (up to 10,000), when the window since its first message is
  over, or before the invocation would pass 6 MB, counting each record with all of its metadata.
- The event carries all system attributes, the message attributes and the digests.
- At most MaximumConcurrency invocations at once; while all are busy nothing is received, so that waiting uses
  up neither visibility nor receive counts. Unset, it is the five that AWS starts with.
- Without ReportBatchItemFailures any answer deletes the batch; with it the listed messages stay, and an
  answer that cannot be right (see `response`) fails the whole batch. A function error always does.
- What failed is left alone: it reappears when its visibility ends, be it the queue's timeout or one that the
  function chose, and the queue's redrive policy counts and moves it.
- A throttled invocation is tried again, more and more slowly, until its messages' visibility ends.
- What AWS refuses is refused with a sentence: a function that may run longer than the queue's visibility
  timeout, more than ten messages without a window, and, where the emulator enforces policies, a role that may
  not receive, delete, or get the queue's attributes.

What it does not do
- AWS has several pollers, five at first and up to 300 more each minute, each with a batch of its own. Here
  several receivers fill one batch at a time, so that batches are as full as the settings allow. With little
  traffic those on AWS are smaller.
- On a nearly idle queue AWS may wait up to 20 seconds, even with a shorter window. Here the window is exact.
- AWS slows down after function errors when ReportBatchItemFailures is off. Here it does not.
- FIFO queues, FilterCriteria and provisioned pollers are refused.

Where AWS says nothing: a window that reaches far into the visibility timeout is cut, so that the function has
its timeout left, or at least half of the visibility; and a message whose visibility ended before it could be
sent is dropped, because the queue hands it out again.
"""
