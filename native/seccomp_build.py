"""Builds `pyrun.native._seccomp`: the few calls of libseccomp that turn a syscall profile into BPF.

API mode, so the C compiler checks every signature and constant against <seccomp.h>; one abi3 extension for all
Pythons.  It is imported only when a filter is not in the cache (`pyrun.plan.seccomp_build`).  By hand:
``python native/seccomp_build.py DIRECTORY``.
"""

from __future__ import annotations

from cffi import FFI

MODULE = "pyrun.native._seccomp"

ffibuilder = FFI()
ffibuilder.set_source(MODULE, "#include <seccomp.h>", libraries=["seccomp"], py_limited_api=True)
ffibuilder.cdef(
    """
    typedef void *scmp_filter_ctx;
    typedef uint64_t scmp_datum_t;

    enum scmp_compare { SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ, ... };
    enum scmp_filter_attr {
        SCMP_FLTATR_ACT_BADARCH, SCMP_FLTATR_CTL_NNP, SCMP_FLTATR_CTL_OPTIMIZE, ...
    };

    struct scmp_arg_cmp {
        unsigned int arg;
        enum scmp_compare op;
        scmp_datum_t datum_a;
        scmp_datum_t datum_b;
        ...;
    };
    struct scmp_version { unsigned int major; unsigned int minor; unsigned int micro; ...; };

    #define SCMP_ACT_KILL_PROCESS ...
    #define SCMP_ACT_ALLOW ...
    #define SCMP_ARCH_NATIVE ...
    #define SCMP_ARCH_X86_64 ...
    #define SCMP_ARCH_AARCH64 ...

    const struct scmp_version *seccomp_version(void);
    scmp_filter_ctx seccomp_init(uint32_t def_action);
    void seccomp_release(scmp_filter_ctx ctx);
    int seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
    int seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch_token);
    uint32_t seccomp_arch_native(void);
    int seccomp_syscall_resolve_name(const char *name);
    int seccomp_syscall_resolve_name_arch(uint32_t arch_token, const char *name);
    int seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall,
                               unsigned int arg_cnt, const struct scmp_arg_cmp *arg_array);
    int seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
    """
)

if __name__ == "__main__":
    import sys

    ffibuilder.compile(tmpdir=sys.argv[1] if len(sys.argv) > 1 else ".", verbose=True)
