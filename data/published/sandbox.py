"""
Run a Python program that a model wrote without harm to the machine: run_program(code) -> Outcome.

The program runs in a box of four layers, as far as the system grants them:
  1. Linux namespaces (unshare): no network; processes of its own, which the kernel ends together;
     all disks read-only, but for an empty temporary folder of 16 MB in memory.
  2. Limits of the process: CPU seconds, memory, size of written files, number of open files, no
     child processes, no core dump.
  3. An audit hook of Python, which works on every system: no sockets, processes, signals or ctypes,
     and no change to a file outside the temporary folder.
  4. A session and process group of its own, killed whole at the time limit; an empty environment;
     nothing on stdin.
The box is meant for the accidents of a model's code, not for an attacker: layer 3 alone does not
hold someone who knows Python.

This file has two sides. run_program is imported, and it starts this file as a script with
`python -I -S -B`. The script closes the box and runs the program in a child process. Programs see
the standard library only.
"""
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

# Address space of the program: enough for the standard library, too little for torch.
MEMORY_MB = 1024
# Largest file that the program can write, its output included.
FILE_MB = 4


class Outcome(NamedTuple):
    # The program came to its last line: no exception, no exit before.
    ok: bool
    # "ok", "timed out after 3 s", "ended by signal 11", ..., or the exception.
    reason: str
    # The last 2,000 characters of stdout and stderr.
    output: str
    # Layer 1 was granted.
    isolated: bool


def run_program(code, timeout=5.0, namespaces=True):
    """Run `code`, not as __main__, for at most `timeout` seconds of wall-clock time.

    Several threads may call it at once.
    namespaces: False leaves out layer 1, to test the others.
    """
    # The box writes the token after the program's last line: exit(0) half-way is no success.
    token = secrets.token_hex(16)
    request = {"code": code, "token": token, "timeout": timeout, "namespaces": namespaces}
    request = json.dumps(request).encode()
    try:
        code.encode()
    except UnicodeEncodeError:
        return Outcome(False, "lone surrogates in the program", "", False)
    command = [sys.executable, "-I", "-S", "-B", os.path.abspath(__file__)]
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder, \
            tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, folder], cwd=folder, env={}, start_new_session=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        timed_out = False
        try:
            report, _ = process.communicate(request, timeout)
        except subprocess.TimeoutExpired as e:
            report = e.output or b""
            timed_out = True
        finally:
            # On Ctrl-C too, nothing is left running.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            process.stdout.close()
            process.stdin.close()
        size = log.seek(0, os.SEEK_END)
        # 2,000 characters have 8,000 bytes at most.
        log.seek(max(0, size - 8000))
        output = log.read().decode("utf-8", "replace")[-2000:]

    # The report is the output of close_box_and_run() below.
    words = report.decode().split()
    isolated = words[:1] == ["isolated"]
    if timed_out:
        return Outcome(False, f"timed out after {timeout:g} s", output, isolated)
    if not words:
        raise OSError(f"the sandbox of programs did not start (exit status {process.returncode}): "
                      f"{output.strip() or 'it said nothing'}")
    if len(words) == 1:
        return Outcome(False, "killed together with the sandbox", output, isolated)
    # The status is the one that os.waitpid gives.
    status = int(words[1])
    ok = words[2:] == [token]
    if ok:
        reason = "ok"
    elif os.WIFSIGNALED(status):
        reason = f"ended by signal {os.WTERMSIG(status)}"
    elif size >= FILE_MB << 20:
        reason = f"printed more than {FILE_MB} MB"
    elif os.WEXITSTATUS(status) == 0:
        reason = "ended before its last line"
    else:
        reason = (output.strip().splitlines() or ["failed"])[-1]
    return Outcome(ok, reason, output, isolated)


# --------------------------------------------------------------------------------------------------
# The other side: all that follows runs in the box.

def enter_namespaces(folder):
    """Layer 1. Returns whether it was granted; containers and macOS do without it."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        # CLONE_NEWUSER is 0x10000000, CLONE_NEWNS 0x20000, CLONE_NEWPID 0x20000000,
        # CLONE_NEWNET 0x40000000, CLONE_NEWIPC 0x08000000.
        spaces = 0x20000 | 0x20000000 | 0x40000000 | 0x08000000
        uid = os.getuid()
        gid = os.getgid()
        if libc.unshare(0x10000000 | spaces) == 0:
            # The program has the same user and group inside as outside.
            for name, content in [("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                                  ("gid_map", f"{gid} {gid} 1")]:
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(content)
        elif libc.unshare(spaces):
            # Without a user namespace only root may have the others.
            return False
        # As `mount --make-rprivate /` does: nobody else sees what is mounted from here on.
        # MS_REC is 0x4000, MS_PRIVATE 0x40000.
        if libc.mount(None, b"/", None, 0x4000 | 0x40000, None):
            return False
        if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=16m,mode=700"):
            return False
        # mount_setattr is system call 442, since Linux 5.12. AT_FDCWD is -100, AT_RECURSIVE 0x8000.
        # Of the four numbers the first sets attributes, the second clears them;
        # MOUNT_ATTR_RDONLY is 1.
        read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
        writable = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
        size = ctypes.c_size_t(32)
        if libc.syscall(442, -100, b"/", 0x8000, ctypes.byref(read_only), size):
            return False
        return libc.syscall(442, -100, folder.encode(), 0, ctypes.byref(writable), size) == 0
    except (OSError, AttributeError):
        return False


def die_with_parent():
    """On Linux this process gets SIGKILL when its parent ends (PR_SET_PDEATHSIG is 1)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass


def limit_resources(timeout):
    """Layer 2: give up the rights that the namespaces took to make, then limit the process."""
    try:
        libc = ctypes.CDLL(None)
        # Drop all capabilities (0x20080522 is _LINUX_CAPABILITY_VERSION_3).
        libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        # PR_SET_NO_NEW_PRIVS: exec gains none either.
        libc.prctl(38, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass
    import resource
    seconds = int(timeout) + 1
    for name, value in [("CPU", seconds), ("AS", MEMORY_MB << 20), ("DATA", MEMORY_MB << 20),
                        ("FSIZE", FILE_MB << 20), ("NOFILE", 64), ("NPROC", 0), ("CORE", 0),
                        ("STACK", 8 << 20)]:
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except (AttributeError, ValueError, OSError):
            # macOS does not have all of these limits.
            pass


# The audit events that layer 3 refuses, by how they begin.
REFUSED = ("socket.", "subprocess.", "ctypes.", "pty.", "os.system", "os.exec", "os.posix_spawn",
           "os.spawn", "os.fork", "os.kill", "os.startfile", "os.setxattr", "os.removexattr",
           "signal.pthread_kill", "syslog.")
# The audit events that it refuses for paths outside the temporary folder.
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
           "os.chmod", "os.chown", "os.utime", "os.chflags", "shutil.", "sqlite3.connect")
# Functions whose calls Python does not audit; they are replaced by refuse().
UNHEARD = [("_posixsubprocess", "fork_exec"), ("os", "mkfifo"), ("os", "mknod")]


def refuse(*args, **kwargs):
    raise PermissionError("the sandbox refuses processes of its own and special files")


def audit_hook(folder):
    """Layer 3: a hook for sys.addaudithook that raises PermissionError; it cannot be removed."""
    # These are kept here, since the program may change os.
    realpath, fspath, fsdecode = os.path.realpath, os.fspath, os.fsdecode
    inside = realpath(folder) + os.sep

    def hook(event, args):
        if event.startswith(REFUSED):
            raise PermissionError(f"the sandbox refuses {event}")
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int):
                return
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                return
            paths = [path]
        elif event.startswith(CHANGES):
            paths = [arg for arg in args if isinstance(arg, (str, bytes, os.PathLike))]
        else:
            return
        for path in paths:
            if (not (realpath(fsdecode(fspath(path))) + os.sep).startswith(inside)
                    and path != os.devnull):
                raise PermissionError(f"the sandbox refuses {event} outside its folder: {path!r}")
    return hook


def close_box_and_run(folder):
    """The supervisor: read the request, close the box, run the program two forks down.

    It prints whether layer 1 was granted, then the program's status, then the token if the program
    came to its end.
    """
    request = json.load(sys.stdin.buffer)
    isolated = request["namespaces"] and enter_namespaces(folder)
    print("isolated" if isolated else "not-isolated", flush=True)
    os.chdir(folder)
    token, token_end = os.pipe()
    status, status_end = os.pipe()
    # With namespaces this is process 1 of the new one: when it ends, all others there end too.
    first = os.fork()
    if first == 0:
        die_with_parent()
        program = os.fork()
        if program == 0:
            die_with_parent()
            os.close(status_end)
            run_in_box(request, folder, token_end)
        code = os.waitpid(program, 0)[1]
        os.write(status_end, b"%d" % code)
        os._exit(0)
    os.close(token_end)
    os.close(status_end)
    os.waitpid(first, 0)
    # Without a status the process was killed before it could tell: signal 9.
    print(os.read(status, 20).decode() or "9", os.read(token, 100).decode())


def run_in_box(request, folder, report):
    """The program's process: empty stdin, output to the log, limits and hook, then the code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    limit_resources(request["timeout"])
    # As in OpenAI's human-eval the program has no __name__ of its own, so it is "builtins".
    environment = {"__builtins__": __builtins__}
    code = request.pop("code")
    token = request.pop("token").encode()
    # These are kept here, since the program may change os.
    write, leave = os.write, os._exit
    finished = False
    try:
        for module, name in UNHEARD:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, refuse)
        program = compile(code, "<program>", "exec")
        sys.addaudithook(audit_hook(folder))
        exec(program, environment)
        finished = True
    except SystemExit:
        pass
    except BaseException as e:
        # Only its text is printed: the program may have broken what a traceback needs.
        try:
            sys.stdout.flush()
            sys.stderr.write(f"{type(e).__name__}: {e}"[:1000].replace("\n", " ") + "\n")
        except BaseException:
            pass
        leave(1)
    try:
        sys.stdout.flush()
    except BaseException:
        pass
    if finished:
        write(report, token)
    leave(0)


if __name__ == "__main__":
    close_box_and_run(sys.argv[1])
