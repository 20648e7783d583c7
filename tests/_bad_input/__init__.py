"""The table of bad input: everything a user, a file, an endpoint or a function may get wrong, and what is said of it.

* `material`: keys and secrets, made anew for each run, so that no source line holds one.
* `row`: what a row is, the servers it runs against, and how it is judged.
* `fields`, `keys`, `tokens`, `endpoints`, `grants`, `logins`, `files`, `commands`, `functions`, `attachments`,
  `calls`: the rows, by what is wrong.
"""
