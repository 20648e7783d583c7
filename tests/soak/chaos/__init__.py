"""A run on the real stack in which everything around the library goes wrong, and the server's ledger is the judge.

    python tests/soak/chaos/run.py --seed 1 --seconds 180

* `script`: what goes wrong and when; pure, from the seed.
* `world`: the servers, their credentials and files. `faults`: does to them what the script says, and writes it down.
* `lines`: our ways to attach, each with an auth. `controls`: what others would use instead.
* `kinds`, `load`: the calls, and the workers that make them. `forks`: a process that forks.
* `judge`: what each call's end was worth, by the ledger. `leaks`: where secrets might show. `table`: all, to read.
"""
