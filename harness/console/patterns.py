"""What kernel trouble looks like: the first lines of reports, and the lines they consist of.

A pattern is matched against one line of the kernel's log without its time
stamp, from the line's start, so that a line that merely talks about a warning
does not count. Where a pattern's wording differs between kernels, all known
wordings are in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Splat:
    """One report of trouble in the kernel's log.

    Attributes:
        kind: a name of :data:`KINDS`, e.g. ``KASAN``.
        title: the line that says what happened, without its time stamp.
        text: the whole report as it was printed.
        decoded: the report with file and line for every address, if that was asked for.
        start: where the report begins in the console's text, in bytes.
        note: why it was not decoded, if it was asked for and failed.
    """

    kind: str
    title: str
    text: str
    decoded: str | None = None
    start: int = field(default=0, compare=False)
    note: str = field(default="", compare=False)

    def with_decoded(self, decoded: str | None, note: str = "") -> Splat:
        """Return the same report, decoded."""
        return replace(self, decoded=decoded, note=note)

    def __str__(self) -> str:
        return self.decoded or self.text


@dataclass(frozen=True)
class Kind:
    """One kind of report.

    Attributes:
        name: what tests and people call it.
        head: matches the line that says what happened.
        rank: a report whose first lines match several kinds is of the highest rank:
            0 for lines that only continue a report if one is open, 1 for the general
            kinds, 2 for those that say more.
        splat: false for what looks like trouble and was asked for.
        until: the report goes on to the line that matches, whatever comes before it.
        single: the report is this one line.
    """

    name: str
    head: re.Pattern[str]
    rank: int = 2
    splat: bool = True
    until: re.Pattern[str] | None = None
    single: bool = False


_RULER = re.compile(r"={20,}$|---\[ end trace")


def _kind(
    name: str,
    *heads: str,
    rank: int = 2,
    splat: bool = True,
    until: re.Pattern[str] | None = None,
    single: bool = False,
) -> Kind:
    return Kind(name, re.compile("|".join(f"(?:{h})" for h in heads)), rank, splat, until, single)


#: Every kind, the more telling ones before the general ones of the same rank.
KINDS: tuple[Kind, ...] = (
    # Asked for: not splats.
    _kind("FAULT_INJECTION", r"FAULT_INJECTION: forcing a failure", splat=False),
    _kind(
        "SYSRQ",
        r"(?:sysrq: )?(?:SysRq ?: )?Show (?:State|Blocked State|Regs|Memory|Locks|backtrace|clock|"
        r"sched|CPUs|workqueue)",
        splat=False,
    ),
    # The end.
    _kind("PANIC", r"Kernel panic - not syncing"),
    # The sanitizers.
    _kind("KASAN", r"BUG: KASAN: ", until=_RULER),
    _kind("KCSAN", r"BUG: KCSAN: ", until=_RULER),
    _kind("KFENCE", r"BUG: KFENCE: ", until=_RULER),
    _kind("KMSAN", r"BUG: KMSAN: ", until=_RULER),
    _kind("UBSAN", r"UBSAN: ", until=_RULER),
    # Locks.
    _kind(
        "LOCKDEP",
        r"WARNING: possible circular locking dependency detected",
        r"WARNING: possible recursive locking detected",
        r"WARNING: possible irq lock inversion dependency detected",
        r"WARNING: inconsistent lock state",
        r"WARNING: \S+-safe -> \S+-unsafe lock order detected",
        r"WARNING: held lock freed",
        r"WARNING: .* still has locks held",
        r"WARNING: lock held (?:at task exit|when returning to user space)",
        r"WARNING: bad unlock balance detected",
        r"WARNING: bad contention detected",
        r"WARNING: Nested lock was not taken",
        r"(?:\[ )?BUG: Invalid wait context",
        r"\[ (?:BUG|INFO): ",
        r"INFO: possible (?:circular|recursive|irq)",
        r"INFO: (?:HARDIRQ|SOFTIRQ)-safe",
        r"INFO: inconsistent lock state",
        r"INFO: trying to register non-static key",
        r"BUG: MAX_(?:LOCKDEP|LOCK_DEPTH|STACK_TRACE)\w* too low",
        r"BUG: (?:key .* has not been registered|\S+ not in \.data)",
        r"DEBUG_LOCKS_WARN_ON\(",
        r"BUG: (?:circular locking deadlock|lock held)",
    ),
    _kind("RCU_USAGE", r"(?:WARNING|INFO): suspicious RCU usage"),
    _kind("SPINLOCK", r"BUG: (?:spinlock|rwlock|rtmutex|mutex|local_lock)"),
    _kind(
        "ATOMIC_SLEEP",
        r"BUG: sleeping function called from invalid context",
        r"BUG: scheduling while atomic",
        r"BUG: atomic scheduling",
        r"do not call blocking ops when ",
    ),
    _kind("PREEMPT", r"BUG: using \S+ in preemptible"),
    # What does not go on.
    _kind(
        "RCU_STALL",
        r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stalls?",
        r"(?:rcu: )?INFO: rcu_tasks\w* detected stalls",
        r"rcu: \w+ kthread (?:starved for|timer wakeup)",
        r"(?:rcu: )?rcu_\w*: wait state: .* stall",
    ),
    _kind("SOFT_LOCKUP", r"(?:\w+: )*BUG: soft lockup", r"(?:\w+: )*CPU#?\d+ .*soft lockup"),
    _kind("HARD_LOCKUP", r"(?:[\w ]+: )*(?:CPU\d+: )?Watchdog detected hard LOCKUP"),
    _kind("HUNG_TASK", r"INFO: task .* blocked for more than"),
    _kind("WORKQUEUE", r"BUG: workqueue lockup", r"workqueue: .* flushing !WQ_MEM_RECLAIM"),
    # Memory.
    _kind("KMEMLEAK", r"kmemleak: \d+ new suspected memory leaks", single=True),
    _kind("KMEMLEAK", r"kmemleak: (?:Cannot|Trying|Found object|Partially|Unknown)"),
    _kind("REFCOUNT", r"refcount_t: ", r"percpu_ref\b.*: (?:percpu )?(?:ref|atomic)"),
    _kind("REF_TRACKER", r"ref_tracker: .*(?:leaked|users at)", r"leaked reference"),
    _kind("LIST_CORRUPTION", r"(?:h?list_(?:add|del)|list_nulls\w*|plist) ?(?:\w+ )?corruption"),
    _kind("BAD_PAGE", r"BUG: Bad (?:page|rss|swap)", r"BUG: non-zero pgtables"),
    _kind(
        "SLAB",
        r"BUG [^\s:()]+(?: \([^)]*\))?: ",
        r"BUG: slab",
        r"(?:\w+: )?kmem_cache_destroy \S+: ",
        r"cache `[^']*': ",
    ),
    _kind(
        "PAGE_ALLOC",
        r"\S.*: page allocation (?:failure|stalls)",
        r"SLUB: Unable to allocate memory on",
    ),
    _kind("PAGE_ALLOC", r"(?:\S.*: )?vmalloc:? (?:size \d+ )?(?:allocation failure|error)"),
    _kind(
        "OOM",
        r"\S.* invoked oom-killer",
        r"(?:Memory cgroup o|O)ut of memory",
        r"Out of memory and no killable",
    ),
    _kind(
        "USERCOPY",
        r"usercopy: (?:Kernel memory|Bad or missing)",
        r"detected (?:field-spanning|buffer overflow)",
        r"memcpy: detected ",
    ),
    _kind("ODEBUG", r"ODEBUG: "),
    # The network.
    _kind("NETDEV_UNREGISTER", r"unregister_netdevice: waiting for", single=True),
    _kind("NETDEV_WATCHDOG", r"(?:.*: )?NETDEV WATCHDOG: "),
    _kind("SKB_PANIC", r"(?:\w+: )?skb_(?:over|under)_panic: "),
    _kind("PAGE_POOL", r"page_pool\S*:? .*stalled pool shutdown", single=True),
    # The general ones.
    _kind("STACK_OVERFLOW", r"BUG: (?:\S+ )?stack guard page was hit", r"kernel stack overflow"),
    _kind("STACK_OVERFLOW", r"Insufficient stack space to handle exception"),
    _kind("DOUBLE_FAULT", r"(?:traps: )?PANIC: double fault", r"double fault: "),
    _kind(
        "PAGE_FAULT",
        r"BUG: unable to handle",
        r"BUG: kernel NULL pointer dereference",
        r"Unable to handle kernel",
    ),
    _kind("GENERAL_PROTECTION", r"(?:Oops: )?general protection fault"),
    _kind("KERNEL_BUG", r"kernel BUG at ", r"Internal error: Oops - BUG"),
    _kind("BUG", r"(?:\w+: )*BUG: ", rank=1),
    _kind(
        "WARNING",
        r"WARNING: (?:CPU: \d+ PID: \d+ )?at ",
        # From v7.0 the place comes first.
        r"WARNING: \S+:\d+ at ",
        r"WARNING: (?:kernel )?stack (?:regs|going|frame|recursion)",
        rank=1,
    ),
    # A fault's banner; the colon and the number of the oops are always there.
    _kind("OOPS", r"Oops(?: - [^:]*)?: ", r".*: [0-9a-f]{4,16} \[#\d+\]", rank=1),
    # Only trouble if nothing else has said what it is.
    _kind("RIP", r"RIP: [0-9a-f]{4}:\S", rank=0),
    _kind("CALL_TRACE", r"Call [Tt]race:", rank=0),
)

NAMES = frozenset(kind.name for kind in KINDS)

#: Most lines are no head of anything: one match tells.
_ANY = re.compile("|".join(f"(?:{kind.head.pattern})" for kind in KINDS))

#: Opens a report whose kind the next lines say.
CUT_HERE = re.compile(r"-+\[ cut here \]-+")

#: Precedes the head of a report.
PRELUDE = re.compile(r"={10,}$|-{10,}$|-+\[ cut here \]-+$|\*{10,}$")

CALL_TRACE = re.compile(r"Call [Tt]race:")

#: Ends the reports of faults and warnings.
END_TRACE = re.compile(r"---\[ end ")

#: What an oops prints once more behind its end.
AFTERMATH = re.compile(
    r"RIP: |Code: |[RE]SP: |RAX: |RDX: |RBP: |R\d\d: |FS: |CS: |CR2: |DR\d: |PKRU: |"
    r"Kernel Offset: |Modules linked in: |Dumping ftrace|note: .* exited with|"
    r"Fixing recursive fault|Rebooting in|Shutting down cpus|BUG: unable to handle .*recursive|"
    r"Disabling lock debugging|Memory Limit:|---\[ end"
)

#: Lines that belong to a report behind its call trace.
BODY = re.compile(
    r"\s*(?:\? |! )?[\w.$]+(?:\.\w+)*\+0x[0-9a-f]+/0x[0-9a-f]+|"  # a frame
    r"\s*(?:<[/\w#]+>)|"  # <IRQ>, </TASK>
    r"\s*(?:0x[0-9a-f]+|\[<[0-9a-f]+>\])(?:\s|$)|"
    r"Call [Tt]race:|RIP: |Code: |[RE]SP: |RAX: |RDX: |RBP: |R\d\d: |FS: |CS: |CR2: |DR\d: |"
    r"PKRU: |CPU: \d+ |Hardware name: |Modules linked in: |Tainted: |"
    r"---\[ end |={10,}$|-{10,}$|Kernel Offset: |"
    r"irq event stamp: |(?:hard|soft)irqs last |"
    r"Showing all locks held|\d+ locks? held by |no locks held by | #\d+: |INFO: lockdep is turned|"
    r"(?:NMI backtrace for|Sending NMI from) |task:\S+ |"
    r"rcu: |\t\d+-[.O]|\t\(detected by |\(detected by |\(t=\d+|blocking rcu_node|"
    r"workqueue \S+: |\s+pwq \d+:|\s+(?:in-flight|pending|inactive|delayed): |pool \d+: |"
    r"Showing busy workqueues|"
    r"The buggy address|page:|raw: |page dumped because|flags: |aops:|head:|memcg:|"
    r"Memory state around|[ >]ffff[0-9a-f]{12}: | +\^|Allocated by task|Freed by task|"
    r"Allocated in |Freed in |Last call_rcu|(?:Second to l|L)ast potentially related|"
    r"INFO: (?:0x|Slab|Object|Allocated|Freed|Freepointer)|Slab 0x|Object 0x|"
    r"(?:Bytes b4|Object|Redzone|Padding|Poison)\s+[0-9a-fx]+|FIX \S+: |"
    r"addr \S+ is located in |this frame has |which belongs to |"
    r"Mem-Info:|active_anon:| (?:active|inactive|isolated|unevictable|slab|mapped|free|kernel)\w*:|"
    r"Node \d+ |lowmem_reserve|\d+ total pagecache|\d+ pages |Swap cache|Free swap|Total swap|"
    r"Tasks state|\[ +(?:pid|\d+)\s*\]|oom-kill:|Out of memory: Killed|oom_reaper: |"
    r"stack backtrace:|other info that might|Reported by Kernel|value changed: |"
    r"(?:read|write)(?:-write|/write|-marked)? to 0x|race at unknown|note: |"
    r"Disabling lock debugging|Rebooting in|Kernel panic - not syncing"
)

#: Heads that are the next part of an open report of the kind, not a report of their own.
SEQUELS = {
    "OOM": re.compile(r"(?:Memory cgroup o|O)ut of memory: Killed|oom_reaper: "),
    "RCU_STALL": re.compile(r"rcu: \w+ kthread "),
}

_STAMP = re.compile(r"(?:<\d+>)?\[\s*(\d+\.\d+)\](?:\[\s*[TC]\d+\])? ?")

#: A time stamp within a line: something that was not ended by a newline came before it.
INNER_STAMP = re.compile(r"(?<=.)\[\s{0,4}\d{1,7}\.\d{6}\](?:\[\s*[TC]\d+\])? ")


def strip(line: str) -> tuple[float | None, str]:
    """Return a line's time stamp (seconds since boot, None without one) and its message."""
    match = _STAMP.match(line)
    if match is None:
        return None, line
    return float(match[1]), line[match.end() :]


def classify(message: str) -> Kind | None:
    """Return the kind whose head ``message`` is, the highest rank first."""
    if _ANY.match(message) is None:
        return None
    found: Kind | None = None
    for kind in KINDS:
        if (found is None or kind.rank > found.rank) and kind.head.match(message):
            found = kind
    return found
