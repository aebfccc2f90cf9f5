/* The `pyrun` command: finds the Python interpreter beside itself and becomes it, isolated.
 *
 *     /venv/bin/pyrun ARG...   ->   /venv/bin/python3 -I -S -E -X utf8 -c BEGIN BOOT MODULE BUNDLE PYTHON LIBRARY /venv/bin/pyrun ARGV0 ARG...
 *
 * Before that it tries the short way of fast.c: a command line that was decided before needs no interpreter.
 *
 * A script would name its interpreter in a first line that installers rewrite without the flags, and the
 * usual console script imports more than pyrun does.  Nothing here allocates, and no pointer is stored in
 * static data: nobody relocates a static PIE without libc.
 */
#include "again.h"
#include "fast.h"
#include "oci_verbs.h"
#include "recipe.h"

/* The other program of the family is this file with PYRUN_OCI: `pyrun-oci`.  ENTRY has the function entry() that takes over. */
#ifdef PYRUN_OCI
#define PYRUN_ENTRY "pyrun.cli.oci"
#define BUNDLE "oci"
#else
#define PYRUN_ENTRY "pyrun.cli.main"
#define BUNDLE "run"
#endif

#define EXIT_FAILED 125
#define LONGEST_PATH 4096
#define MOST_LINKS 8
#define R_OK 4 /* access(2) */
#define LONGEST_MESSAGE (2 * LONGEST_PATH)
#define ADDED_ARGUMENTS 15
#define BUNDLE_WORD 10

/* The interpreter compiles this each time, by 15 us a line: the rest is in a file.  The place of `encodings` is taken where
 * find_start() has found what that needs. */
static const char begin[] = "import encodings, sys\n"
                            "encodings.begin()() if hasattr(encodings, 'begin') else exec(sys.argv[1])\n";

/* Elsewhere this begins.  The package directory goes first on the path, so that pyrun's modules are found with one look.  Where the
 * package is not in this prefix (an editable install, Debian's dist-packages) the site module knows better. */
static const char boot[] = "import posix, sys\n"
                           "launcher = sys.argv[6]\n"
                           "p = launcher.rsplit('/', 2)[0], sys.platlibdir, *sys.version_info[:2]\n"
                           "p = '%s/%s/python%d.%d/site-packages' % p\n"
                           "try:\n"
                           "    posix.stat(p + '/pyrun')\n"
                           "    sys.path.insert(0, p)\n"
                           "except OSError:\n"
                           "    import site\n"
                           "    site.main()\n"
                           "try:\n"
                           "    from pyrun.start.encodings import begin\n"
                           "    entry = begin()\n"
                           "except ImportError as e:\n"
                           "    sys.stderr.write(f'pyrun: {sys.executable}: {e}\\nhint: install pyrun-runtime for this interpreter\\n')\n"
                           "    sys.exit(125)\n"
                           "entry()\n";

static int fail(const char *what, const char *path, const char *why, long error)
{
    char text[LONGEST_MESSAGE];
    const char *end = text + sizeof text;
    char *at = str_add(text, end, "pyrun: ");

    at = str_add(at, end, what);
    at = str_add(at, end, path);
    at = str_add(at, end, why);
    if (error != 0) {
        at = str_add(at, end, " (errno ");
        at = at == 0 ? 0 : str_add_number(at, end, (uint64_t)-error);
        at = str_add(at, end, ")");
    }
    at = str_add(at, end, "\n");
    if (at != 0)
        (void)sys_write(2, text, (size_t)(at - text));
    return EXIT_FAILED;
}

/* A descriptor 0, 1 or 2 that the caller left closed would be taken by the next open file, and that file
 * would then be the standard error of everything that pyrun starts.  Must survive exec, hence no O_CLOEXEC. */
static int standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (sys_call3(__NR_fcntl, fd, F_GETFD, 0) == -EBADF && sys_call4(__NR_openat, AT_FDCWD, "/dev/null", O_RDWR, 0) < 0)
            return -1;
    return 0;
}

/* Cuts a path after its last slash; returns where the name began, or 0 without a slash. */
static char *cut_name(char *path)
{
    char *name = path + str_len(path);

    while (name > path && name[-1] != '/')
        name--;
    *name = '\0';
    return name > path ? name : 0;
}

/* Whether the verb is one for which there is a bundle.  A wrong guess costs a look for a file, or what the file would have saved. */
static int has_bundle(int argc, char **argv)
{
#ifdef PYRUN_OCI
    static const char verbs[][8] = { "create", "exec", "run" };
    const int last = argc;
#else
    static const char verbs[][8] = { "run" };
    const int last = argc < 4 ? argc : 4; /* behind --root DIR at the latest */
#endif

    for (int i = 1; i < last; i++)
        for (size_t k = 0; k < sizeof verbs / sizeof verbs[0]; k++)
            if (str_eq(argv[i], verbs[k]))
                return 1;
    return 0;
}

/* What a program is called where links end, in `path`; 0 where they do not. */
static char *follow(const char *program, char path[PATH_SIZE])
{
    char target[PATH_SIZE];

    if (join(path, program, "", "") == 0)
        return 0;
    for (int links = 0; links < MOST_LINKS; links++) {
        char *name = path + str_len(path);
        const long n = sys_call4(__NR_readlinkat, AT_FDCWD, path, target, sizeof target - 1);

        while (name > path && name[-1] != '/')
            name--;
        if (n < 0)
            return n == -EINVAL && name > path + 1 ? name : 0; /* no link */
        target[n] = '\0';
        if (str_add(target[0] == '/' ? path : name, path + PATH_SIZE, target) == 0)
            return 0;
    }
    return 0;
}

/* The name by which to call the interpreter `python`, so that it finds runtime/start before anything else, and its library, beside the
 * directory of the program itself; 0 where they are elsewhere. */
static char *find_start(const char *python, const char *self, char library[PATH_SIZE], char start[PATH_SIZE])
{
    static const char libraries[][8] = { "lib/", "lib64/" };
    char path[PATH_SIZE], prefix[PATH_SIZE], file[PATH_SIZE];
    char *version = follow(python, path);

    if (version == 0 || memcmp(version, "python3.", 8) != 0 || join(prefix, self, "", "") == 0 || cut_name(prefix) == 0)
        return 0;
    version[-1] = prefix[str_len(prefix) - 1] = '\0';
    if (cut_name(path) == 0 || cut_name(prefix) == 0)
        return 0;
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        const char *name = libraries[i];

        if (join(library, path, name, version) != 0 && join(file, library, "/os.py", "") != 0 &&
            sys_call3(__NR_faccessat, AT_FDCWD, file, R_OK) == 0 && join(start, prefix, name, version) != 0 &&
            str_add(start + str_len(start), start + PATH_SIZE, "/site-packages/pyrun/start/python3") != 0 &&
            join(file, start, "._pth", "") != 0 && sys_call3(__NR_faccessat, AT_FDCWD, file, R_OK) == 0)
            return start;
    }
    return 0;
}

/* Of a library .../python3.N: N */
static const char *minor_of(const char *library)
{
    const char *at = library + str_len(library);

    while (at > library && at[-1] != '.')
        at--;
    return at;
}

#ifndef PYRUN_OCI
/* The helper's program, beside the directory of `start`. */
static char *helper_beside(const char *start, char helper[PATH_SIZE])
{
    char *name = join(helper, start, "", "") == 0 ? 0 : cut_name(helper);

    if (name == 0)
        return 0;
    name[-1] = '\0';
    name = cut_name(helper);
    return name == 0 ? 0 : str_add(name, helper + PATH_SIZE, "native/helper");
}
#endif

/* Becomes the interpreter; returns minus an errno where that fails. */
static long become(char *python, char *self, int argc, char **argv, char **envp)
{
    const uint64_t interrupt = 1ULL << (SIGINT - 1);
    char library[PATH_SIZE], start[PATH_SIZE];
    char *name = find_start(python, self, library, start);
    char number[24];
#ifndef PYRUN_OCI
    char helper[PATH_SIZE];
#endif
    int given = argc > 1 ? argc - 1 : 0;
    const int wanted = has_bundle(argc, argv);
    const struct recipe_stamps *stamps;
    const int bundle = wanted && name != 0 ? recipe_bundle(start, BUNDLE, minor_of(library), &stamps) : -1;
    char **args = __builtin_alloca(sizeof *args * (size_t)(ADDED_ARGUMENTS + given + 1));
    int n = 0;

    args[n++] = name != 0 ? name : python;
    args[n++] = (char[]){ "-I" };
    args[n++] = (char[]){ "-S" };
    args[n++] = (char[]){ "-E" };
    args[n++] = (char[]){ "-X" };
    args[n++] = (char[]){ "utf8" };
    args[n++] = (char[]){ "-c" };
    args[n++] = (char *)(uintptr_t)begin;
    args[n++] = (char *)(uintptr_t)boot;
    args[n++] = (char[]){ PYRUN_ENTRY };
    args[n++] = bundle >= 0 ? number : wanted ? (char[]){ BUNDLE } : (char[]){ "" };
    args[n++] = python;
    args[n++] = name != 0 ? library : (char[]){ "" };
    args[n++] = self;
    args[n++] = argc > 0 ? argv[0] : (char[]){ "pyrun" };
    for (int i = 0; i < given; i++)
        args[n++] = argv[i + 1];
    args[n] = 0;
    if (bundle >= 0) {
        (void)str_add_number(number, number + sizeof number, (uint64_t)bundle);
        (void)sys_call3(__NR_fcntl, bundle, F_SETFD, 0);
    }
#ifndef PYRUN_OCI
    /* Whether the bundle's sources are as they were need not be known for that: a recipe says likewise what it rests on. */
    if (bundle >= 0 && may_decide() && helper_beside(start, helper) != 0) {
        const long child = decide(python, args, &args[BUNDLE_WORD], envp, helper, stamps);

        if (child > 0)
            run_decided(child, envp);
    }
#endif
    if (bundle >= 0 && !recipe_stamps_hold(stamps, stamps->file_size)) {
        (void)sys_call3(__NR_fcntl, bundle, F_SETFD, FD_CLOEXEC);
        (void)str_add(number, number + sizeof number, BUNDLE);
    }
    /* While it starts, Python would end with a trace and exit code 1; pyrun.cli.main lets the signal through. */
    (void)sys_call4(__NR_rt_sigprocmask, SIG_BLOCK, &interrupt, 0, sizeof interrupt);
    const long error = sys_call3(__NR_execve, python, args, envp);
    if (bundle >= 0)
        sys_close(bundle);
    return error;
}

#ifdef PYRUN_OCI
static size_t count(char **words)
{
    size_t n = 0;

    while (words[n] != 0)
        n++;
    return n;
}

/* The environment, and in it what Python has to know: the descriptor of what a recipe can be made of (again.h), or what came between
 * once the program of an exec had run (oci_verbs.h).  Nobody else's word counts. */
static char **with_word(char **environment, char **envp, char word[64], int fd)
{
    static const char key[] = "PYRUN_OCI_KEY=", failed[] = "PYRUN_OCI_FAILED=";
    const struct container *c = new_container();
    size_t n = 0;

    for (; *envp != 0; envp++)
        if (memcmp(*envp, key, sizeof key - 1) != 0 && memcmp(*envp, failed, sizeof failed - 1) != 0)
            environment[n++] = *envp;
    if (c->error != 0) {
        (void)str_add_number(str_add(str_add(str_add(word, word + 64, failed), word + 64, c->failed), word + 64, " "), word + 64,
                             (uint64_t)c->error);
        environment[n++] = word;
    } else if (fd >= 0 && sys_call3(__NR_fcntl, fd, F_SETFD, 0) == 0) {
        (void)str_add_number(str_add(word, word + 64, key), word + 64, (uint64_t)fd);
        environment[n++] = word;
    }
    environment[n] = 0;
    return environment;
}
#endif

int program(int argc, char **argv, char **envp)
{
    char self[LONGEST_PATH], beside[LONGEST_PATH];
    char fallback[][24] = { "/usr/bin/python3", "/usr/local/bin/python3" };
    long n = sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self/exe", self, sizeof self - 1);
    long error = -ENOENT;

    if (standard_streams() < 0)
        return fail("", "/dev/null", ": cannot be opened in place of a closed standard stream", 0);
#ifdef PYRUN_OCI
    if (oci_verb(argc, argv, envp))
        return 0;
    char **environment = __builtin_alloca(sizeof *envp * (count(envp) + 2)), word[64];
    envp = with_word(environment, envp, word, again_verb(argc, argv, envp));
#else
    enter_pod(argc, argv, envp);
    run_recipe(argc, argv, envp);
    list_pods(argc, argv, envp);
#endif
    self[n > 0 ? n : 0] = '\0';
    (void)str_add(beside, beside + sizeof beside, self);
    char *name = cut_name(beside);
    if (name != 0 && str_add(name, beside + sizeof beside, "python3") != 0) {
        error = become(beside, self, argc, argv, envp);
        if (error != -ENOENT)
            return fail("cannot execute ", beside, error == -E2BIG ? ": the arguments are too long" : "", error);
    }
    for (size_t i = 0; i < sizeof fallback / sizeof fallback[0] && error == -ENOENT; i++) {
        error = become(fallback[i], n > 0 ? self : fallback[i], argc, argv, envp);
        if (error != -ENOENT)
            return fail("cannot execute ", fallback[i], "", error);
    }
    if (name != 0)
        return fail("no Python interpreter: ", beside, " is missing, and so are /usr/bin/python3 and /usr/local/bin/python3", 0);
    return fail("no Python interpreter: ", "", "/usr/bin/python3 and /usr/local/bin/python3 are missing", 0);
}
