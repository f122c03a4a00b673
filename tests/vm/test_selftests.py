"""The kernel tree's own selftests, on the patched kernel and on the baseline.

Many of them fail, or cannot run, on a kernel or a machine that lacks something; what
counts is what passes on the baseline and does not on the patched kernel. Whichever
kernel comes second compares.
"""

from pathlib import Path

import pytest

from harness import guesttools, selftests
from harness.selftests import CannotRun, Outcome

pytestmark = pytest.mark.vm

ARMS = ("patched", "baseline")

#: Seconds that a guest gets beyond the test's own limit, to make namespaces and end them.
AROUND = 20


def pytest_generate_tests(metafunc):
    if "test" not in metafunc.fixturenames:
        return
    found = []
    for test in selftests.listed(metafunc.config.skbhome.base.name):
        # What cannot run anywhere is said once.
        for arm in ARMS[:1] if selftests.missing_commands(test) else ARMS:
            marks = [pytest.mark.limit((test.limit + AROUND) * test.tries)]
            marks += [pytest.mark.vm(baseline=True)] if arm == "baseline" else []
            marks += [pytest.mark.slow] if test.slow else []
            found.append(pytest.param(test, arm, marks=marks, id=f"{test.name}-{arm}"))
    metafunc.parametrize(("test", "arm"), found)


@pytest.fixture
def directory(test, kernel, source_tree, request, report):
    """The directory where the test is, compiled."""
    try:
        lacking = selftests.missing_commands(test)
        config = Path(kernel.build_dir / ".config")
        if config.is_file():
            lacking += selftests.missing_options(test, config.read_text())
        if lacking:
            raise CannotRun(f"there is no {', no '.join(lacking)}")
        return selftests.prepare(test, source_tree, request.config.skbhome.base.name)
    except CannotRun as err:
        report.add("selftest", f"not run: {err.what}")
        pytest.skip(err.what)


def run(vm, scale, test, directory) -> Outcome:
    limit = scale.seconds(test.limit)
    where = ["--first-net"] * test.first_net + ["--tmpfs"] * test.tmpfs
    done = vm.run(
        [guesttools.script("selftest"), *where, directory, str(limit), *test.argv()],
        timeout=limit + scale.seconds(AROUND),
        check=False,
        env=dict(test.env),
    )
    return selftests.outcome(done.returncode, done.stdout + done.stderr, done.seconds)


def test_selftest(test, arm, directory, guest, lab, scale, request, report, memo):
    """What passes on the baseline passes on the patched kernel, case by case.

    tests/host/test_selftests_harness.py shows that the comparison fails when it should.
    """
    runs = []
    while len(runs) < test.tries:
        runs.append(run(guest.vm, scale, test, directory))
        if selftests.settled(test, runs[-1]):
            break
    outcome = selftests.best(runs)
    log = request.config.skbhome.directory / f"selftest-{test.name.replace('/', '-')}-{arm}.log"
    log.write_text("".join(each.output for each in runs))
    report.add("selftest", str(outcome))
    known = memo.setdefault(("selftest", test.name, guest.key.flavour), {})
    known[arm] = outcome
    if outcome.result is selftests.Result.TIMEOUT:
        # It was ended in the middle: what it changed is still changed.
        guest.spoilt = f"{test.name} did not end"
    if arm == "patched":
        lab.drained()
    if len(known) == len(ARMS):
        worse = selftests.regressions(known["baseline"], known["patched"], test.unsteady)
        assert not worse, "\n".join(
            [
                f"{test.name} passes on the baseline, but with the series does not:",
                *worse,
                f"its output on the patched kernel ({known['patched']}):",
                known["patched"].output,
            ]
        )
