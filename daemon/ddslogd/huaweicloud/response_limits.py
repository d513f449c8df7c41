"""How much a cloud may send, and what it may cost: each bound with its reason. What exceeds one costs that cloud only.

A cloud is hostile or broken, or somebody answers in its place; the process has 1 GiB for all of them (MemoryMax of the
unit). Together these bounds keep a cloud below 200 MiB.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- one exchange -----------------------------------------------------------------------------------------------------

MAX_BODY: Final = 4 * MIB
"""Bytes of a reply. A row has some 700, an instance in the list some 4,000: MAX_ROWS and a page fit many times."""
MAX_LOGIN_BODY: Final = 512 * KIB
"""Bytes of a reply of the identity or the metadata service; a token's description has some 4,000."""
MAX_VALUES: Final = 150_000
"""Values in the JSON of a reply, counted by its commas. 4 MiB of ``{},`` would be 1.4 million objects and 100 MiB."""
SMALL_BODY: Final = 256 * KIB
"""Bytes of a body that any call may have while others have theirs."""
MOST_LARGE_BODIES: Final = 4
"""Bodies of an account that are larger than that, at a time: 32 calls with the largest body would be 128 MiB."""
MAX_HEADER: Final = 32 * KIB
"""Bytes of one header of a reply. None that is of use has more than some hundred; proxies send long cookies."""
MAX_LOGIN_HEADER: Final = 128 * KIB
"""The same of the identity service: its replies hold the token, which grows with the user's roles. IAM: 32,768."""
MOST_HEADS: Final = 4
"""As many headers of the greatest length fit into all heads of a reply."""
MOST_INTERIM: Final = 20
"""Interim replies (status 1xx) before the reply itself; none is known of these services. RFC 9110, 15.2."""
MAX_FRAMING: Final = 512 * KIB
"""Bytes of an exchange that are no body, beyond as many as are: a chunk of one byte has five around it."""
EXCHANGE_LIMIT_S: Final = 120.0
"""Seconds of one exchange from its connection to the last byte. The vendor's client waits as long for the first."""

# --- one export -------------------------------------------------------------------------------------------------------

MAX_ROWS: Final = 1000
"""Rows of one reply. The largest cluster has some 260 nodes: 32 mongos, 32 shards of 7, and the config nodes."""
MOST_FILES: Final = 4 * MAX_ROWS
"""Files that the replies of one cycle may speak of, all together: a new export can begin while one is followed."""
MOST_HELD: Final = 64 * MIB
"""Bytes of replies that the cycles of a cloud keep at a time: 2,000 cycles with 40 rows each."""
MOST_NODES: Final = 4 * MAX_ROWS
"""Nodes of one instance that are remembered: what is replaced by a new one keeps its name for life."""

# --- the list of instances --------------------------------------------------------------------------------------------

MOST_INSTANCES: Final = 20_000
"""Instances of one list; twice what has been measured (make bench-fleet)."""
MOST_LIST_BYTES: Final = 128 * MIB
"""Bytes of all pages of one list, of which a fourth is kept: 20,000 instances of 6,500."""
MOST_INSTANCE_NODES: Final = MAX_ROWS
"""Nodes of one instance."""
MOST_LISTED_NODES: Final = 200_000
"""Nodes of one list: 20,000 instances of 10."""
MOST_TAGS: Final = 100
"""Tags of one instance; the service allows 20. TMS."""
MOST_KNOWN: Final = 2 * MOST_INSTANCES
"""Instances of a cloud whose names are kept for life, of those that entries discover."""
