"""What runs inside the guest: agent.c, compiled by :mod:`harness.vm.agent`."""
