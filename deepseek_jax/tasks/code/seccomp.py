"""System calls that no judged program needs: a filter that the kernel holds against each.

Refused is what would get memory that no limit counts, reach a device or another machine, make
namespaces, or open the kernel's wider doors. A program that asks for one of them gets EPERM.
"""

import platform
import struct

from deepseek_jax.config import ConfigError

# Name -> number on x86-64 and on aarch64, from the kernel's asm/unistd_64.h and asm-generic.
_REFUSED = {
  "socket": (41, 198),  # also the families that a network namespace does not contain, as vsock
  "shmget": (29, 194),
  "semget": (64, 190),
  "msgget": (68, 186),
  "mq_open": (240, 180),
  "memfd_create": (319, 279),
  "memfd_secret": (447, 447),
  "ptrace": (101, 117),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "pidfd_getfd": (438, 438),
  "unshare": (272, 97),
  "setns": (308, 268),
  "mount": (165, 40),
  "umount2": (166, 39),
  "pivot_root": (155, 41),
  "chroot": (161, 51),
  "open_tree": (428, 428),
  "move_mount": (429, 429),
  "fsopen": (430, 430),
  "fsmount": (432, 432),
  "name_to_handle_at": (303, 264),
  "open_by_handle_at": (304, 265),
  "keyctl": (250, 219),
  "add_key": (248, 217),
  "request_key": (249, 218),
  "bpf": (321, 280),
  "perf_event_open": (298, 241),
  "userfaultfd": (323, 282),
  "io_uring_setup": (425, 425),
  "fanotify_init": (300, 262),
  "inotify_init1": (294, 26),
  "personality": (135, 92),
  "syslog": (103, 116),
}
_CLONE, _CLONE3 = (56, 220), 435
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # AUDIT_ARCH_*
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET
_X32 = 0x40000000  # the bit of x86-64's other numbers, for the same calls

# Of classic BPF: load a word, jump if equal, if at least, if any bit is set, return.
_LOAD, _EQUAL, _LEAST, _ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # where they lie in struct seccomp_data
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def refusing() -> bytes:
  """The filter for this machine, as bwrap's --seccomp reads it.

  Raises:
    ConfigError: it is no machine whose system calls are known here.
  """
  machine = platform.machine()
  if machine not in _ARCHITECTURES:
    known = " and ".join(_ARCHITECTURES)
    raise ConfigError(
      f"programs cannot be confined on {machine}, only on {known}; judge them on one of those."
    )
  column, architecture = _ARCHITECTURES[machine]
  steps = [
    (_LOAD, 0, 0, _ARCHITECTURE),
    (_EQUAL, 1, 0, architecture),
    (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, _NUMBER),
    (_LEAST, 0, 1, _X32),
    (_RETURN, 0, 0, _ENOSYS),
    (_EQUAL, 0, 1, _CLONE3),  # its flags are out of a filter's sight; libraries then use clone
    (_RETURN, 0, 0, _ENOSYS),
  ]
  for numbers in _REFUSED.values():
    steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _EPERM)]
  steps += [
    (_EQUAL, 0, 3, _CLONE[column]),
    (_LOAD, 0, 0, _ARGUMENT),
    (_ANY, 0, 1, _NEW_NAMESPACES),
    (_RETURN, 0, 0, _EPERM),
    (_RETURN, 0, 0, _ALLOW),
  ]
  return b"".join(struct.pack("=HBBI", *step) for step in steps)
