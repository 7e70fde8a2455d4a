r"""Runs programs that nobody has read, so that they reach nothing and cannot forge what is said of them.

    worker (trusted) --- zygote (in the jail, has seen no test) --- candidate     the program; answers calls with plain values
                                                               \--- driver        the tests; calls the candidate, compares

The expected values live in the driver or in the worker, never in the candidate's process, and every comparison happens
there, between plain values that were decoded there.

What this leaves to the candidate: names that tests use and do not define are its own, and so are the answers of methods
that tests call on its objects, and of order and operators between two of them. What it costs: objects of its classes are
compared by their attributes, never by its `__eq__`; membership without iteration, and order and operators between such
an object and a plain value, are refused; tests cannot pass it functions of theirs, patch it, or share files with it; it
cannot start processes.

`kernel`, `landlock`, `seccomp`, `jail`, `zygote`, `values`,
`candidate`, `proxies`, `driver` and `probe` run inside and import the standard library only; `launch`, `selftest`,
`judge` and `sources` run in the worker.
"""
