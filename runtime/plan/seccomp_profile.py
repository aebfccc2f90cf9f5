"""The default system call profile, as data: what an app may call, and why the rest is refused.

Every 64-bit call of x86-64 and aarch64 up to NEWEST stands in exactly one place below (a test keeps it so):
ALLOW, by purpose; UNLOCK, allowed to whoever holds the capability, since the kernel asks for it anyway; DENY, which
fails with EPERM; ABSENT, which fails with ENOSYS so that the C library takes its older way.  Calls above NEWEST and
numbers in GAP do not exist as far as an app can tell: ENOSYS.  Names that an architecture lacks are skipped there.

Some calls are also judged by their arguments; `pyrun.plan.seccomp_gate` does that in all modes.

Loaded only to compile a filter.  A change here changes PROFILE in `pyrun.plan.seccomp` (a test prints the new value).
"""

from __future__ import annotations

ALLOW = {
    # a file descriptor: get one, copy it, look after it
    "descriptors": "open openat openat2 creat close close_range dup dup2 dup3 fcntl flock pipe pipe2 memfd_create eventfd eventfd2 ioctl",
    # bytes in and out of it
    "io": "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range"
    " splice tee readahead fadvise64 fallocate truncate ftruncate cachestat",
    "durability": "fsync fdatasync sync syncfs sync_file_range",
    # names in the file system; devices made by mknod stay unusable without CAP_MKNOD and on nodev mounts
    "names": "link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2 mkdir mkdirat"
    " rmdir mknod mknodat getdents getdents64 chdir fchdir getcwd umask",
    "metadata": "stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 chmod fchmod fchmodat"
    " fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat",
    "xattrs": "getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr"
    " flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat",
    "readiness": "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2"
    " inotify_init inotify_init1 inotify_add_watch inotify_rm_watch",
    # the kernel's old asynchronous I/O, which databases use; io_uring is below
    "aio": "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents ioprio_get ioprio_set",
    "memory": "brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall mseal"
    " pkey_alloc pkey_free pkey_mprotect membarrier",
    "processes": "clone fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid getpgrp"
    " setpgid getsid setsid set_tid_address pidfd_open prctl arch_prctl personality rseq restart_syscall",
    "futexes": "futex futex_waitv futex_wake futex_wait futex_requeue get_robust_list set_robust_list",
    "signals": "rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend"
    " rt_sigtimedwait sigaltstack signalfd signalfd4 kill tkill tgkill pidfd_send_signal pause",
    "time": "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create"
    " timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times",
    "scheduling": "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam"
    " sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min"
    " sched_rr_get_interval getpriority setpriority getcpu",
    "identity": "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid"
    " setresgid setgroups setfsuid setfsgid capget capset",
    # what a program may take away from itself
    "sandboxing": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "limits": "getrlimit setrlimit prlimit64 getrusage sysinfo uname getrandom",
    "sockets": "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt"
    " setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
    "ipc": "shmget shmat shmdt shmctl semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink"
    " mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
}

UNLOCK = {
    # New namespaces and mounts are how most kernel bugs of the last years were reached.
    "CAP_SYS_ADMIN": "clone3 unshare setns mount umount2 pivot_root mount_setattr move_mount open_tree fsopen fsconfig"
    " fsmount fspick statmount listmount sethostname setdomainname quotactl quotactl_fd fanotify_init fanotify_mark",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_DAC_READ_SEARCH": "name_to_handle_at open_by_handle_at",
    "CAP_SYS_PTRACE": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease",
    "CAP_SYS_TIME": "clock_settime settimeofday adjtimex clock_adjtime",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind move_pages migrate_pages",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

DENY = {
    "replaces the running kernel": "kexec_load kexec_file_load",
    "key rings are not namespaced": "add_key request_key keyctl",
    "swap belongs to the host": "swapon swapoff",
    # large, young or with a long record of local root exploits, and everything that uses them can do without
    "attack surface": "io_uring_setup io_uring_enter io_uring_register userfaultfd vmsplice modify_ldt remap_file_pages",
    "obsolete": "uselib ustat sysfs _sysctl lookup_dcookie epoll_ctl_old epoll_wait_old get_thread_area set_thread_area",
    "never or no longer in the kernel": "create_module query_module get_kernel_syms nfsservctl getpmsg putpmsg afs_syscall"
    " tuxcall security vserver",
}

# New enough that callers expect to do without.  clone3 hides its flags in memory, where no filter can look; the
# others take memory out of the kernel's sight or tell about mounts and security modules.
ABSENT = "clone3 memfd_secret map_shadow_stack statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules"

# Since Linux 5.1 all architectures share the numbers of new calls.  Kept here so that a filter does not depend on how
# new libseccomp is.
NUMBERS = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
NEWEST = 466
GAP = {"x86_64": (335, 423), "aarch64": (295, 423)}  # numbers between the old calls and the shared ones

# What the helper calls between the filter and the app's first instruction, and what ends a process or a signal
# handler: allowed by every retain set.
MINIMUM = "execve execveat exit exit_group rt_sigreturn restart_syscall faccessat"
# ... and in between when the filter goes in before identity and capabilities are dropped (no_new_privs off).
MINIMUM_EARLY = "prctl capset setgroups setresgid setresuid chdir getcwd"
# Without this no app starts, so a remove set cannot have it.
START = "execve"
