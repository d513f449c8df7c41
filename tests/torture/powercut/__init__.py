"""Power cuts that a run could have met: recorded, put together from what was not synced, and checked.

recording (strace) ─► trace (calls) ─► disk (what is durable, what may be lost) ─► states ─► checker, as it is and after
                                                                                            the daemon started on it

In the style of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). None of these modules but
``recording`` and ``restart``, which run the daemon and the sandbox, imports anything of the package.
"""
