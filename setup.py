"""How the package is put together; what it is called and needs stands in pyproject.toml.

Besides the cffi extensions there are two programs without libc: `helper`, which lives inside the package
`pyrun.native`, and the launcher, which is installed as the script ``pyrun``.  Wheels, sdists, editable and
in-place builds all make them by the same two methods below.
"""

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup  # isort: skip, setuptools brings its own distutils
from distutils.command.build_scripts import build_scripts as BuildScripts

from setuptools.command.build_ext import build_ext as BuildExt

ROOMS = {"pyrun": "runtime", "pyrun.native": "native", "pyrun.images": "images"}

# Freestanding: an exec of a program without libc costs a quarter of a static one with it.  Where the stack protector
# looks for its canary, which libc would set up, is the business of native/start.c.
# The flags stand in a file of their own, which clangd and `make lint` read too.
COMPILE = [*Path("native/compile_flags.txt").read_text().split(), "-g0", "-fcf-protection=none"]
# One segment to read and one to write: each further one costs an exec as much as ten system calls.  Sorted, so that arrays of whole
# pages come first and small variables share a page.
LINK = """
    -nostdlib -static-pie -s -Wl,-e,_start -Wl,--gc-sections -Wl,--build-id=none
    -Wl,--sort-section=alignment -Wl,-z,relro,-z,now,-z,noexecstack -Wl,-z,noseparate-code
""".split()


class Program(Extension):
    """An extension that links to an executable instead of a shared object."""


class build_ext(BuildExt):
    """Knows how to make a `Program`; everything else is as ever."""

    def get_ext_filename(self, fullname):
        if isinstance(self.ext_map.get(fullname), Program):
            return fullname.replace(".", os.sep)
        return super().get_ext_filename(fullname)

    def build_extension(self, ext):
        if isinstance(ext, Program):
            self.link_program(ext, self.get_ext_fullpath(ext.name))
        else:
            super().build_extension(ext)

    def link_program(self, ext, target):
        # a directory of its own, since both programs compile start.c
        objects = self.compiler.compile(
            ext.sources, os.path.join(self.build_temp, ext.name), extra_postargs=ext.extra_compile_args, depends=ext.depends
        )
        folder, name = os.path.split(target)
        self.compiler.link_executable(objects, name, folder, extra_postargs=ext.extra_link_args)


class build_scripts(BuildScripts):
    """Compiles the launchers; the `scripts` of setup() only name its source."""

    def run(self):
        self.run_command("build_ext")
        self.mkpath(self.build_dir)
        for launcher in (LAUNCHER, OCI_LAUNCHER):
            self.get_finalized_command("build_ext").link_program(launcher, os.path.join(self.build_dir, launcher.name))


def packages():
    """Every package of the three rooms, as `pyrun....`."""
    found = set(ROOMS)
    for room, folder in ROOMS.items():
        found.update(f"{room}.{name}" for name in find_packages(folder))
    return sorted(found)


def program(name, *sources, flags=()):
    headers = sorted(str(path) for path in Path("native").glob("*.h"))
    return Program(name, list(sources), extra_compile_args=[*COMPILE, *flags], extra_link_args=LINK, depends=headers)


LAUNCHER = program(
    "pyrun",
    "native/launcher.c",
    "native/fast.c",
    "native/decide.c",
    "native/kept.c",
    "native/recipe.c",
    "native/words.c",
    "native/quick.c",
    "native/list.c",
    "native/list_scan.c",
    "native/list_text.c",
    "native/prepared.c",
    "native/asked.c",
    "native/which.c",
    "native/lines.c",
    "native/say.c",
    "native/refuse.c",
    "native/oci_json.c",
    "native/joined.c",
    "native/net_script.c",
    "native/net_text.c",
    "native/net_take.c",
    "native/net_names.c",
    "native/net_ready.c",
    "native/net_plugin.c",
    "native/net_result.c",
    "native/net_address.c",
    "native/net_user.c",
    "native/net_relay.c",
    "native/net_undo.c",
    "native/net_clear.c",
    "native/netns.c",
    "native/users.c",
    "native/live.c",
    "native/shared.c",
    "native/place.c",
    "native/scope.c",
    "native/pod.c",
    "native/handover.c",
    "native/files.c",
    "native/decode.c",
    "native/start.c",
)
OCI_LAUNCHER = program(
    "pyrun-oci",
    "native/launcher.c",
    "native/oci_verbs.c",
    "native/again.c",
    "native/recipe.c",
    "native/again_json.c",
    "native/again_key.c",
    "native/again_plan.c",
    "native/again_make.c",
    "native/again_state.c",
    "native/oci_exec.c",
    "native/oci_exec_home.c",
    "native/oci_exec_json.c",
    "native/oci_exec_plan.c",
    "native/oci_exec_run.c",
    "native/oci_json.c",
    "native/handover.c",
    "native/decode.c",
    "native/files.c",
    "native/shared.c",
    "native/start.c",
    flags=["-DPYRUN_OCI"],
)
KEEPER = program(
    "pyrun.native.keeper",
    "native/keeper.c",
    "native/keep_run.c",
    "native/keep_helper.c",
    "native/keep_state.c",
    "native/keep_health.c",
    "native/keep_log.c",
    "native/keep_tty.c",
    "native/keep_pod.c",
    "native/keep_manager.c",
    "native/handover.c",
    "native/files.c",
    "native/shared.c",
    "native/start.c",
)
RELAY = program("pyrun.native.relay", "native/relay.c", "native/relay_flows.c", "native/start.c")
PARK = program("pyrun.native.park", "native/park.c", "native/start.c")
HELPER = program(
    "pyrun.native.helper",
    "native/start.c",
    "native/main.c",
    "native/supervise.c",
    "native/watch.c",
    "native/terminal.c",
    "native/notify.c",
    "native/cleanup.c",
    "native/files.c",
    "native/shared.c",
    "native/init.c",
    "native/doze.c",
    "native/enter.c",
    "native/handlers.c",
    "native/oci_start.c",
    "native/oci_link.c",
    "native/oci_mounts.c",
    "native/oci_cover.c",
    "native/oci_copy.c",
    "native/oci_map.c",
    "native/oci_nodes.c",
    "native/oci_root.c",
    "native/oci_process.c",
    "native/oci_rights.c",
    "native/metadata.c",
    "native/root.c",
    "native/limits.c",
    "native/version1.c",
    "native/oom.c",
    "native/mounts.c",
    "native/process.c",
    "native/network.c",
    "native/netns.c",
    "native/path.c",
    "native/decode.c",
)

setup(
    packages=packages(),
    package_dir=ROOMS,
    package_data={"pyrun": ["py.typed"], "pyrun.start": ["python3._pth"], "pyrun.native": ["*.pyi", "plan.h", "oci_plan.h"]},
    ext_modules=[HELPER, KEEPER, PARK, RELAY],
    cffi_modules=["native/build.py:ffibuilder", "native/seccomp_build.py:ffibuilder", "native/unpack_build.py:ffibuilder"],
    scripts=["native/launcher.c"],
    cmdclass={"build_ext": build_ext, "build_scripts": build_scripts},
    # strict: a farm of links instead of an import hook, which would cost every start 12 ms and hide the types
    options={"editable_wheel": {"mode": "strict"}, "bdist_wheel": {"py_limited_api": "cp311"}},
    zip_safe=False,
)
