"""What the simulation counted, per packet; and networks and guests of more CPUs, as words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.bench import arms, counts, figures, lines, measure, networks, scaling, workloads
from harness.bench.networks import Network
from harness.coherence import Counts, Tally

pytestmark = pytest.mark.host

CASES = {case.name: case for case in workloads.all_cases()}
NONE = Tally()


def counted(nodes: tuple[int, ...] = (0, 0)) -> Counts:
    return Counts(
        "x",
        nodes,
        "lines",
        {
            "sock_alloc_send_pskb": (Tally(instructions=50_000, read_local=300), NONE),
            "kfree_skb": (NONE, Tally(instructions=20_000, write_local=500, write_remote=200)),
        },
    )


def test_counts_are_per_packet_and_per_end() -> None:
    found = lines.evaluate(CASES["udp-tun-out-400"], counted(), 100)
    assert found["values"] == {
        figures.TRANSFERS: 10.0,
        figures.INSTRUCTIONS: 700.0,
        figures.BOTH: 700.0,
    }
    # CPU 1 reads: what it executes is its profile; whoever needed a line is in transfers.
    assert found["profile"] == {"kfree_skb": 200.0}
    assert found["transfers"] == {"kfree_skb": 7.0, "sock_alloc_send_pskb": 3.0}


def test_nodes_tell_remote_transfers() -> None:
    found = lines.evaluate(CASES["udp-tun-out-400"], counted((0, 1)), 100)
    assert found["values"][figures.REMOTE] == 2.0


def test_a_case_whose_threads_move_counts_all_cpus() -> None:
    found = lines.evaluate(CASES["flows-16"], counted(), 100)
    assert set(found["profile"]) == {"kfree_skb", "sock_alloc_send_pskb"}


def test_sections_are_averaged() -> None:
    one = lines.evaluate(CASES["udp-tun-out-400"], counted(), 100)
    two = lines.evaluate(CASES["udp-tun-out-400"], counted(), 200)
    both = lines.mean([one, two])
    assert both["values"][figures.TRANSFERS] == pytest.approx(7.5)
    assert both["transfers_range"] == [5.0, 10.0]
    assert both["packets"] == 300


def section() -> dict[str, Any]:
    return {
        "values": {figures.TRANSFERS: 30.0, figures.BOTH: 1000.0},
        "transfers": {"do_csum": 4.0, "kfree": 2.0},
        "profile": {"skb_copy_datagram_iter": 12.0, "queued_spin_lock_slowpath": 100.0},
    }


def test_datagrams_are_those_that_were_read_in_the_section() -> None:
    # Twice as many packets were counted as were read while it lasted.
    found = lines.with_derived(CASES["udp-tun-out-400"], section())
    assert found["packets_factor"] == 2.0
    assert found["values"][figures.TRANSFERS] == 60.0
    assert found["values"][figures.WORK] == 1800.0
    stream = lines.with_derived(CASES["stream-veth"], section())
    assert stream["values"][figures.TRANSFERS] == 30.0, "one skb of a stream is read in pieces"


def test_copies_of_the_payload_are_told_apart() -> None:
    found = lines.with_derived(CASES["stream-veth"], section())
    assert found["values"][figures.BESIDE] == 26.0


def test_cases_have_names_of_their_own_and_known_arms() -> None:
    names = [case.name for case in workloads.all_cases()]
    assert len(names) == len(set(names))
    for case in workloads.all_cases():
        assert set(case.arms) <= set(arms.BY_NAME)
        assert case.arms[0] == arms.REFERENCE and arms.AGAIN in case.arms
        assert 1 <= case.workload <= 6
    assert {case.workload for case in workloads.all_cases() if case.quick} == {1, 4, 5}


def test_more_cpus_get_as_many_queues() -> None:
    case = scaling.case(8)
    assert case.network.queues == 8 and case.network.reader[0] == "0,1,2,3,4,5,6,7"
    assert case.load["flows"] == 64
    assert scaling.case(64).network.queues == 16, "the wire has no more"


class Process:
    def __init__(self, argv: list[str], error: str = "") -> None:
        self.argv = argv
        self.stderr = "ready\n"
        self.error = error
        self.killed = False

    def poll(self) -> int | None:
        return 0 if self.killed else None

    def kill(self, signal: int) -> None:
        self.killed = True

    def wait(self, limit: float) -> Any:
        class Done:
            stdout = json.dumps({"error": self.error})
            stderr = ""

        return Done()


class Runner:
    def __init__(self, error: str = "") -> None:
        self.scripts: list[str] = []
        self.started: list[Process] = []
        self._error = error

    def sh(self, script: str, *, timeout: float = 30, check: bool = True) -> str:
        self.scripts.append(script)
        return ""

    def start(self, argv: list[str]) -> Any:
        self.started.append(Process(argv, self._error))
        return self.started[-1]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.guesttools, "tool", lambda name: f"/tools/{name}")


@contextmanager
def made(spec: Network, runner: Runner) -> Iterator[networks.Path]:
    with networks.network(runner, spec) as path:  # type: ignore[arg-type]
        yield path


def test_a_sink_is_read_where_it_should_be() -> None:
    runner = Runner()
    with made(Network("sink", "vhost", reader=("1", "")), runner) as path:
        argv = runner.started[0].argv
        assert argv[argv.index("--b") + 1] == "sink"
        assert argv[argv.index("--a-cpu") + 1] == "1"
        assert argv[argv.index("--vhost-cpu") + 1] == "1"
        assert path.tx_netns == path.rx_netns
    assert runner.started[0].killed
    assert "ip netns del" in runner.scripts[-1]


def test_a_forwarding_network_has_two_wires() -> None:
    runner = Runner()
    with made(Network("forward", "vhost", queues=4, reader=("0,1", "")), runner) as path:
        first, second = (each.argv for each in runner.started)
        assert first[first.index("--b-cpu") + 1] == "0,1"
        assert "--vhost-cpu" not in second and second[second.index("--a") + 1].startswith("vhost:")
        assert path.addr == "10.9.7.2"
        assert any("ip_forward" in script for script in runner.scripts)
    assert all(each.killed for each in runner.started)


def test_rfs_has_a_table_and_everybody_else_has_none() -> None:
    runner = Runner()
    with made(Network("veth", rps=15, rfs=True), runner) as path:
        assert path.addr == "10.9.0.2"
    assert any("rps_flow_cnt" in script for script in runner.scripts)
    assert any("echo 4096 > /proc/sys/net/core/rps_sock_flow_entries" in s for s in runner.scripts)
    runner = Runner()
    with made(Network("veth", rps=1), runner):
        pass
    assert any("echo 0 > /proc/sys/net/core/rps_sock_flow_entries" in s for s in runner.scripts)
    assert not any("rps_flow_cnt" in script for script in runner.scripts)


def test_what_a_wire_saw_wrong_is_no_result() -> None:
    runner = Runner(error="no memory")
    with pytest.raises(networks.NetworkFailed, match="no memory"), made(Network("sink"), runner):
        pass


def test_the_command_line_of_a_case() -> None:
    path = networks.Path("a", "b", "10.9.8.2", "dev", "dev")
    argv = measure.arguments(CASES["udp-tun-out-400"], path, seconds=0.1)
    assert argv[0] == "/tools/load"
    assert "--no-receiver" in argv and argv[argv.index("--seconds") + 1] == "0.1"
    assert argv[argv.index("--tx-netns") + 1] == "a"
    loaded = measure.arguments(CASES["lo-rps-load"], path)
    assert loaded[loaded.index("--seconds") + 1] == "1.2", "a case's own window"


def test_a_zones_batch() -> None:
    text = "Node 0\n  pagesets\n    cpu: 0\n              count: 3\n              batch: 63\n"
    assert counts.batch(text) == 63
    with pytest.raises(counts.BadCounter):
        counts.batch("")
