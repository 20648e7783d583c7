"""What the two contract tests share: the same scenario on a plain channel and on ours must look the same.

* `stage`: a server that plays whatever part a scenario writes for its next call.
* `observe`: what a user can see of a call or an error, as plain values that compare.
* `sync_attachments`, `aio_attachments`: every way to attach, and the plain channel that it has to behave like.
* `runner`: turns a scenario into a test against every way to attach.
"""
