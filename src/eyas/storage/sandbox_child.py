"""What runs inside the sandbox: confine this process, then execute the program. Standard library only.

Started by `eyas.storage.sandbox` as a script of its own; `eyas.storage.grading_process` confines itself with parts of
it. The request comes as JSON on standard input; what is reported goes to the file descriptor named in it: a line
`ready` or `error ...` once the process is confined, then, if the interpreter lives that long,
`<token> passed|failed|memory`.
"""

from __future__ import annotations

import ast
import base64
import builtins
import ctypes
import json
import operator
import os
import resource
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_ACCESS_BY_VERSION = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
"""LANDLOCK_ACCESS_FS_* known to each version; https://docs.kernel.org/userspace-api/landlock.html."""
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _MAKE_SPECIAL = 1 << 1, 1 << 2, 1 << 3, 1 << 6 | 1 << 9 | 1 << 11
_NEW_USER, _NEW_MOUNTS, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x20000, 0x40000000, 0x08000000
_MS_READ_ONLY, _MS_NO_SUID, _MS_NO_DEVICES, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_RECURSIVE, _MS_PRIVATE = 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_FILTER = 1, 38, 22, 2
_SIGKILL = 9
_CAPABILITIES_VERSION = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _prctl(option: int, value: int | ctypes.c_void_p, what: str, third: ctypes.c_void_p | int = 0) -> None:
    arguments = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (value, third, 0, 0)]
    _checked(_LIBC.prctl(option, *arguments), what)


def restrict_with_landlock(readable: list[str], work: str | None) -> None:
    """Reading below `readable`, everything but special files below `work`, /dev/null, nothing elsewhere.

    Raises: OSError, where Landlock does not work.
    """
    version = _checked(_LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1), "Landlock")
    handled = _ACCESS_BY_VERSION.get(version, 0xFFFF)
    attribute = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = _checked(_LIBC.syscall(_LANDLOCK_CREATE, attribute, ctypes.c_size_t(8), 0), "Landlock ruleset")
    granted = [(path, _READ_FILE | (_READ_DIRECTORY if os.path.isdir(path) else 0)) for path in readable]
    granted += [(work, handled & ~_MAKE_SPECIAL)] if work is not None else []
    for path, access in [*granted, (os.devnull, _READ_FILE | _WRITE_FILE)]:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access, directory)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        _checked(_LIBC.syscall(_LANDLOCK_ADD, ruleset, 1, buffer, 0), f"Landlock rule for {path}")
        os.close(directory)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    _checked(_LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "Landlock restriction")
    os.close(ruleset)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    result = _LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(result, f"mount on {target}")


def _bind(source: str, root: str, *, read_only: bool) -> None:
    target = root + source
    os.makedirs(target if os.path.isdir(source) else os.path.dirname(target), exist_ok=True)
    if not os.path.isdir(source):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    _mount(source, target, None, _MS_BIND)
    kept = os.statvfs(target).f_flag & (os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC | os.ST_NOATIME | os.ST_RELATIME)
    relatime = 1 << 21 if kept & os.ST_RELATIME else 0
    flags = kept & ~os.ST_RELATIME | relatime | _MS_NO_SUID | (_MS_READ_ONLY if read_only else 0)
    _mount(None, target, None, _MS_BIND | _MS_REMOUNT | flags)


def restrict_with_namespaces(readable: list[str], work: str, root: str) -> None:
    """A root of its own that holds `readable` without write access, and `work`; no network interface."""
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK | _NEW_IPC), "namespaces")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)
    _mount("none", root, "tmpfs", _MS_NO_SUID | _MS_NO_DEVICES, "size=1m")
    for path in readable:
        _bind(path, root, read_only=True)
    _bind(work, root, read_only=False)
    _mount(None, root, None, _MS_REMOUNT | _MS_BIND | _MS_READ_ONLY | _MS_NO_SUID | _MS_NO_DEVICES)
    os.chroot(root)
    os.chdir(work)


def _limit(limits: dict[str, int]) -> None:
    cpu_s = limits["cpu_s"]
    for name, soft, hard in (
        ("RLIMIT_CPU", cpu_s, cpu_s + 1),
        ("RLIMIT_AS", limits["memory_bytes"], limits["memory_bytes"]),
        ("RLIMIT_FSIZE", limits["file_bytes"], limits["file_bytes"]),
        ("RLIMIT_NOFILE", limits["open_files"], limits["open_files"]),
        ("RLIMIT_CORE", 0, 0),
    ):
        resource.setrlimit(getattr(resource, name), (soft, hard))


def confine(request: dict[str, Any]) -> None:
    """Limits always; files, privileges and system calls unless the means is `none`."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL, "parent-death signal")
    means, work = request["means"], os.getcwd()
    if means == "landlock":
        restrict_with_landlock(request["readable"], work)
    elif means == "namespaces":
        restrict_with_namespaces(request["readable"], work, request["root"])
    _limit(request["limits"])
    if means != "none":
        restrict_system_calls(base64.b64decode(request["filter"]))


def restrict_system_calls(code: bytes) -> None:
    """Drop all capabilities and install the filter of `eyas.storage.seccomp`.

    Raises: OSError, where the kernel does not take it.
    """
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITIES_VERSION, 0), 8)
    _checked(_LIBC.capset(header, ctypes.create_string_buffer(24)), "dropping capabilities")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    pointer = ctypes.cast(ctypes.create_string_buffer(program, len(program)), ctypes.c_void_p)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, "system-call filter", pointer)


class _Comparisons(ast.NodeTransformer):
    """Every operand `a` of a comparison becomes `__compared__(a)`."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        name = ast.Name("__compared__", ast.Load())
        node.left = ast.Call(name, [node.left], [])
        node.comparators = [ast.Call(name, [value], []) for value in node.comparators]
        return ast.fix_missing_locations(node)


def compared(value: object) -> object:
    """`value`.

    Raises: AssertionError, if it equals an object that was made this moment, so that it would equal anything.
    """
    stranger = object()
    for equals in (lambda: value == stranger, lambda: operator.not_(value != stranger)):
        if _holds(equals):
            raise AssertionError(f"a {type(value).__name__} equals everything")
    return value


def _holds(claim: Callable[[], object]) -> bool:
    try:
        return bool(claim())
    except Exception:  # noqa: BLE001 (the program's own __eq__)
        return False


def execute(program: str, tests: str) -> str:
    """`passed` if program and then tests run to their end; prints the traceback otherwise.

    Tests do not pass where an object that equals everything was compared, or a builtin was replaced. What is needed
    once the program has run is made and looked up before: it could put its own in the place of any module's names.
    """
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    names, run, print_exception = module.__dict__, exec, traceback.print_exc
    require_unchanged = _require_unchanged_builtins()
    try:
        compiled = compile(_Comparisons().visit(ast.parse(tests, "<tests>")), "<tests>", "exec", dont_inherit=True)
        guard = compared
        run(compile(program, "<program>", "exec", dont_inherit=True), names)
        require_unchanged()
        names["__compared__"] = guard
        run(compiled, names)
        require_unchanged()
    except MemoryError:
        return "memory"
    except BaseException:  # noqa: BLE001 (SystemExit must not pass)
        print_exception()
        return "failed"
    return "passed"


def _require_unchanged_builtins() -> Callable[[], None]:
    now = vars(builtins)
    before = dict(now)

    def require() -> None:
        changed = [name for name, value in before.items() if now.get(name) is not value and name != "_"]
        if changed:
            raise AssertionError(f"the program replaced {', '.join(changed)}")

    return require


def main() -> None:
    """Read the request, confine, execute, report; ends without running what the program left to run at exit."""
    request = json.load(sys.stdin.buffer)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    write, leave, descriptor, token = os.write, os._exit, request["descriptor"], request["token"]
    try:
        confine(request)
    except OSError as error:
        write(descriptor, f"error {error}\n".encode())
        leave(1)
    write(descriptor, b"ready\n")
    verdict = execute(request["program"], request["tests"])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        write(descriptor, f"{token} {verdict}\n".encode())
        leave(0)


if __name__ == "__main__":
    main()
