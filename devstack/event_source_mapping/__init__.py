"""Runs SQS event source mappings faithfully, for emulators whose own are not.

On AWS a mapping between a queue and a function gathers messages, invokes the function, and deletes the
completed messages. Emulators shorten that: at most ten messages, no window, lenient with broken answers.
Large batches and partial failures are then tested against something that is never deployed. `python -m
devstack.event_source_mapping` takes the deployed mappings' settings from the Lambda API, keeps the emulator's
own mappings disabled, and does their work with the same public APIs: ReceiveMessage, Invoke,
DeleteMessageBatch. It serves any project, and nothing here knows this one.

It does this, as AWS documents it:

- A batch goes when it holds BatchSize messages (up to 10,000) or when the window since its first message is
  over. It also goes before the invocation would pass 6 MB, counting each record with all of its metadata.
- The event carries all system attributes, the message attributes and the digests.
- At most MaximumConcurrency invocations run at once. While all are busy nothing is received, so waiting uses
  up neither visibility nor receive counts. If it is not set, it is the five that AWS starts with.
- Without ReportBatchItemFailures any answer deletes the batch. With it the listed messages stay, and an
  answer that cannot be right (see `response`) fails the whole batch. A function error always does.
- A failed message is left alone. It reappears when its visibility ends, be it the queue's timeout or one that
  the function chose. The queue's redrive policy counts and moves it.
- A throttled invocation is tried again, more and more slowly, until its messages' visibility ends.
- A mapping that AWS refuses is refused with a sentence. The function may run longer than the queue's
  visibility timeout, or the batch is larger than ten messages without a window. Where the emulator enforces
  policies, the role may also lack the permission to receive, delete, or get the queue's attributes.

It does not do this:

- AWS has several pollers, five at first and up to 300 more each minute, each with a batch of its own. Here
  several receivers fill one batch at a time, so batches are as full as the settings allow. With little
  traffic those on AWS are smaller.
- On a nearly idle queue AWS may wait up to 20 seconds, even with a shorter window. Here the window is exact.
- AWS slows down after function errors when ReportBatchItemFailures is off. Here it does not.
- FIFO queues, FilterCriteria and provisioned pollers are refused.

Where AWS says nothing, these rules apply. A window that reaches far into the visibility timeout is cut, so
that the function has its timeout left, or at least half of the visibility. A message whose visibility ended
before it could be sent is dropped, because the queue hands it out again.
"""
