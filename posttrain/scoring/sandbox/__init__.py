r"""Runs programs that nobody has read, so that they reach nothing and cannot forge what is said of them.

    worker (trusted) --- zygote (in the jail, has seen no test) --- candidate     the program; answers calls with plain values
                                                               \--- driver        the tests; calls the candidate, compares

The expected values live in the driver or in the worker, never in the candidate's process, and every comparison happens
there, between plain values that were decoded there.

A candidate has passed when every step of the tests has run without an exception and every test that lies in their
functions and classes has been called and has passed, while its process was there. What the tests catch themselves is
theirs, but for a failed check that they only print. What goes wrong in the driver once the candidate has answered is
the candidate's failure.

What this leaves to the candidate: names that tests use and do not define are its own, unless the problem's source or
the standard library is known to have them; so are the answers of methods that tests call on its objects, and of order
and operators between two of them. A built-in is its own only where that is what is tested. What it costs: objects of its
classes are compared by their attributes (without an `__eq__` of their class, each equals itself only), never by that
`__eq__`; membership without iteration, and order and operators between such an object and a plain value, are refused;
tests cannot pass it functions of theirs, derive from its classes, patch it, or share files with it; it cannot start
processes.

`kernel`, `landlock`, `seccomp`, `jail`, `folders`, `zygote`, `values`, `wire` and `probe` run inside and import the
standard library only; so do `candidate` and `program`, which are the candidate's process, and `driver`, `peer`,
`proxies`, `exceptions`, `suites`, `reports` and `pytest_parts`, which are the tests'. `launch`, `excess`, `selftest`,
`judge` and `sources` with `names`, `obstacles` and `rewriting` run in the worker.
"""
