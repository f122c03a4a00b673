"""Boot a kernel in a virtual machine and run commands in it."""

from harness.vm.boot import boot
from harness.vm.errors import (
    GuestBootFailed,
    GuestCommandFailed,
    GuestCommandTimeout,
    GuestError,
    GuestGone,
    GuestHang,
    GuestPanic,
)
from harness.vm.guestprocess import GuestProcess, GuestResult
from harness.vm.options import KernelImage, VmOptions
from harness.vm.vm import Vm

__all__ = [
    "GuestBootFailed",
    "GuestCommandFailed",
    "GuestCommandTimeout",
    "GuestError",
    "GuestGone",
    "GuestHang",
    "GuestPanic",
    "GuestProcess",
    "GuestResult",
    "KernelImage",
    "Vm",
    "VmOptions",
    "boot",
]
