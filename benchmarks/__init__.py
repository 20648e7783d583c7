"""What auth costs a call: `make bench` measures it and writes `benchmarks/report/`.

Every figure is a ratio within one run. Blocks of calls drift (a variant against itself came out at 0.95), so one small
loop (`loop`) shuffles the variants call by call, pyperf holds the samples, and each table has a row A/A: the floor
against itself. The server always runs in a process of its own, so client CPU is client CPU. Where much goes on at once
(16 threads, 50 tasks, streams), the two keep to a processor each (`Server.apart`): by wandering between them the floor
came out at twice its time, and at 0.96 of itself.

* `loop`: the shuffled loop, sync and asyncio.
* `stats`: ratios with their 95 % interval. `tables`: rows, goals and verdicts.
* `server`: the other process. `stubs`, `aio_stubs`, `peers`: the ways to attach, ours and others'.
* `jobs/`: one file for each part of the report.
* `report`, `face`, `plots`, `machine`: what is written at the end. `face` is what people read first, in the README too.
* `__main__`: the command.
"""
