"""cffi builder of `pyrun.native._native`: the calls of binding.c and the constants of plan.h."""

from __future__ import annotations

import os
import re

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))


def wire() -> str:
    """Return plan.h and oci_plan.h as cffi's cdef reads them: without the include guards."""
    text = ""
    for name in ("plan.h", "oci_plan.h"):
        with open(os.path.join(HERE, name), encoding="ascii") as file:
            text += file.read()
    return re.sub(r"^#(ifndef|endif|define PYRUN_(OCI_)?PLAN_H).*$", "", text, flags=re.MULTILINE)


ffibuilder = FFI()
ffibuilder.cdef(
    wire()
    + """
    static int pyrun_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
    static int pyrun_inotify(void);
    static int pyrun_inotify_add(int fd, const char *path, uint32_t mask);
    static int pyrun_bind(const char *from, const char *to);
    static int pyrun_unmount(const char *path);
    static int pyrun_syncfs(int fd);
    static int pyrun_device_program(int cgroup, const char *code, int size);
    static int pyrun_shut_down(int fd);
    static int pyrun_spawn(int helper, char *const argv[], char *const envp[], const int *slots, int count, int *pidfd);
    struct pyrun_started { int pid; int pidfd; int control; char uuid[37]; };
    static int pyrun_start(int helper, int pods, const int *stdio, const char *record, int record_size, const char *plan, int plan_size,
                           unsigned flags, struct pyrun_started *started);
    static int pyrun_netns(int from, int family, int *socket);
    static int pyrun_root_of(int mounts);
    static int pyrun_user_namespace(int fd);
    """
)
with open(os.path.join(HERE, "binding.c"), encoding="ascii") as source:
    ffibuilder.set_source(
        "pyrun.native._native",
        source.read(),
        sources=["native/pod.c", "native/handover.c"],
        depends=[
            "native/binding.c",
            "native/pod.h",
            "native/handover.h",
            "native/link.h",
            "native/sys.h",
            "native/plan.h",
            "native/oci_plan.h",
            "native/recipe.h",
        ],
        include_dirs=[HERE],
        extra_compile_args=["-fvisibility=hidden"],
        py_limited_api=True,
    )

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
