"""The system calls that sandboxed code may not make, as a filter program for the Linux kernel.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.12. Filter format:
https://docs.kernel.org/userspace-api/seccomp_filter.html. This is a list of what is denied, not of what is allowed:
calls newer than Linux 5.1 are unknown to the process, except the few that start an interpreter needs.
"""

from __future__ import annotations

import errno
import platform
import struct

from eyas.errors import SandboxError

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the tables below, AUDIT_ARCH_*."""
_PROCESSES = {"fork": (57, None), "vfork": (58, None), "clone": (56, 220)}
"""Answered EAGAIN, like a process limit that has been reached: neither processes nor threads."""
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other programs
    "execve": (59, 221), "execveat": (322, 281),
    # network and messages between processes
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # signals to and control over other processes
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239), "prctl": (157, 167),
    # mounts, namespaces, kernel interfaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "seccomp": (317, 277), "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
    # memory outside the address-space limit, disk outside the file-size limit (FALLOC_FL_KEEP_SIZE)
    "memfd_create": (319, 279), "fallocate": (285, 47),
    # changes to files that Landlock does not govern; directories, so that removing the scratch directory is simple
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None),
    "mkdir": (83, None), "mkdirat": (258, 34),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45),
}  # fmt: skip
"""Answered EPERM; numbers on x86_64 and aarch64, None where the call does not exist."""
_FIRST_NEW = 424
"""pidfd_send_signal: from here on both architectures number alike; x86_64's x32 calls are far above."""
_NEW_ALLOWED = {"close_range": 436, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449}
_O_TRUNC, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 0x200, 8, 10, 15

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def _instruction(code: int, k: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _refuse(number: int, error: int) -> list[bytes]:
    return [_instruction(_JUMP_EQUAL, number, no=1), _instruction(_RETURN, _ERRNO | error)]


def _refuse_argument(number: int, position: int, values: tuple[int, ...], *, mask: int = 0xFFFFFFFF) -> list[bytes]:
    """EPERM if the low 32 bits of an argument, masked, are one of the values; allowed otherwise."""
    body = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * position), _instruction(_AND, mask)]
    for value in values:
        body += _refuse(value, errno.EPERM)
    body.append(_instruction(_RETURN, _ALLOW))
    return [_instruction(_JUMP_EQUAL, number, no=len(body)), *body]


def filter_program() -> bytes:
    """The filter for this machine as an array of `struct sock_filter`.

    Raises: SandboxError, on an architecture whose numbers are not known here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise SandboxError(
            f"no sandbox for machine {machine!r}, only for {', '.join(_ARCHITECTURES)}. Grade code on one of those."
        )
    column, architecture = _ARCHITECTURES[machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, architecture, yes=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for number in _NEW_ALLOWED.values():
        program += [_instruction(_JUMP_EQUAL, number, no=1), _instruction(_RETURN, _ALLOW)]
    program += [_instruction(_JUMP_AT_LEAST, _FIRST_NEW, no=1), _instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    for table, error in ((_PROCESSES, errno.EAGAIN), (_DENIED, errno.EPERM)):
        for numbers in table.values():
            here = numbers[column]
            program += _refuse(here, error) if here is not None else []
    read_only_truncation = (_O_TRUNC, _O_TRUNC | 3)  # access modes 0 and 3 slip past Landlock before its third version
    if column == 0:
        program += _refuse_argument(2, 1, read_only_truncation, mask=_O_TRUNC | 3)
    program += _refuse_argument((257, 56)[column], 2, read_only_truncation, mask=_O_TRUNC | 3)
    program += _refuse_argument((72, 25)[column], 1, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX))
    own_process = [
        _instruction(_LOAD, _ARGUMENTS_AT),
        _instruction(_JUMP_EQUAL, 0, no=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
    ]
    program += [_instruction(_JUMP_EQUAL, (302, 261)[column], no=len(own_process)), *own_process]  # prlimit64
    program.append(_instruction(_RETURN, _ALLOW))
    return b"".join(program)
