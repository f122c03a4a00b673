"""What a series gains and costs: workloads on kernels with and without it, and one report.

A case (:mod:`~harness.bench.workloads`) is traffic on a network (:mod:`~harness.bench.networks`)
that runs in turn under each arm (:mod:`~harness.bench.arms`): a kernel and its settings. A guest
for each kernel is alive all the time (:mod:`~harness.bench.guests`), so that arms take turns
(:mod:`~harness.bench.plan`) and are compared within a round (:mod:`~harness.bench.statistics`).
The program ``load`` (``guest/load``) makes the traffic and reads the counters
(:mod:`~harness.bench.counts`) around a window of it. What was measured is kept at once
(:mod:`~harness.bench.samples`), so that a run goes on where it was ended.
"""
